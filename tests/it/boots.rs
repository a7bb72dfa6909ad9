//! Real boots: real firmware, the real binary, the tiny image.
