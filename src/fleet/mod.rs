//! Which machines are meant (selectors), how they move to another image (rollouts) and are made to boot it, and
//! whose turn it is to fetch a root (admission). Pure.

mod admission;
mod parse;
mod reboot;
mod rollout;
mod selector;
#[cfg(test)]
mod tests;
mod window;

pub use admission::{Admission, AdmissionLimits, Asked};
pub use parse::SelectorError;
pub use reboot::{Next, Wanted, reboots};
pub use rollout::{Boot, Member, Plan, Step, Turn, Wave, give_back, plan, sizes, spread};
pub use selector::{KEYS, Selector};
pub use window::{parse_window, window_words};
