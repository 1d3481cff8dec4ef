//! Checks of the tables without a device, and of everything with one.
