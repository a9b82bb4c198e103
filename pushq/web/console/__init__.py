"""The console: pages for people, rendered here, alive by a few ES modules. No build step, nothing from another host."""
