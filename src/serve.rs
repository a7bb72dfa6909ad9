//! Wires a configuration to running servers.
