//! `pristine nbp`.

use super::{Context, Outcome};
use clap::Subcommand;

/// Boot programs for firmware.
#[derive(Debug, Subcommand)]
pub enum Nbp {}

impl Nbp {
    pub(super) fn run(self, _context: &Context) -> Outcome {
        match self {}
    }
}
