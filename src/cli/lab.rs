//! `pristine lab`.

use super::{Context, Outcome};
use clap::Subcommand;

/// Virtual servers on real firmware.
#[derive(Debug, Subcommand)]
pub enum Lab {}

impl Lab {
    pub(super) fn run(self, _context: &Context) -> Outcome {
        match self {}
    }
}
