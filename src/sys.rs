//! The only module with `unsafe`: system calls that no safe crate offers.
