//! The program as its users meet it: every test runs the real binary.

mod architecture;
mod bad_input;
mod disk;
mod help;
mod metering;
mod resume;
mod run_directory;
mod workbench;
