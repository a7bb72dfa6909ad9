//! `pristine image`.

use super::{Context, Outcome};
use clap::Subcommand;

/// Images in the store.
#[derive(Debug, Subcommand)]
pub enum Image {}

impl Image {
    pub(super) fn run(self, _context: &Context) -> Outcome {
        match self {}
    }
}
