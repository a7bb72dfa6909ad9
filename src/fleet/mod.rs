//! Which machines are meant (selectors), how they move to another image (rollouts) and are made to boot it, and
//! whose turn it is to fetch a root (admission), and what a document or rows make of them. Pure.

mod admission;
mod declare;
mod document;
mod edit;
mod parse;
mod reboot;
mod rollout;
mod rows;
mod selector;
#[cfg(test)]
mod tests;
mod window;

pub use admission::{Admission, AdmissionLimits, Asked};
pub use declare::{Batch, Declared, Site, declare, problem};
pub use document::{
    ApplyOrder, Document, Exported, MAX_MACHINES, MAX_NAME, MachineEntry, RuleEntry, is_plain_name,
};
pub use edit::{Edit, Edited, Fault, Known, Wrong, edited};
pub use parse::SelectorError;
pub use reboot::{Next, Wanted, reboots};
pub use rollout::{Boot, Member, Plan, Step, Turn, Wave, give_back, plan, sizes, spread};
pub use rows::{ImportOrder, MachineRow};
pub use selector::{KEYS, Selector};
pub use window::{parse_window, window_words};
