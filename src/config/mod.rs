//! `pristine.toml`: read, checked, explained.
