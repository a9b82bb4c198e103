"""Who a send goes to: audiences, segments, and the SQL they become. Importing it pulls in no database driver."""
