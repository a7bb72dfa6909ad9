//! TFTP for boot programs.
