//! The one answer and the only writer of state.
