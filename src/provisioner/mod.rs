//! The one answer and the only writer of state.

mod clock;
mod types;

pub use clock::{Clock, SystemClock, TestClock};
pub use types::{
    Bounds, CommandError, Explanation, FileAnswer, MachinePatch, Options, Pinned, Report, ReportError,
    ScriptError, ScriptQuery, Stats, TransferOutcome, Unknown,
};
