"""Everything on one machine, for a first look: servers, mock providers, workers and generated devices."""
