//! Which machines are meant (selectors), and how they move to another image (rollouts) and are made to boot it. Pure.

mod parse;
mod reboot;
mod rollout;
mod selector;
#[cfg(test)]
mod tests;
mod window;

pub use parse::SelectorError;
pub use reboot::{Next, Wanted, reboots};
pub use rollout::{Boot, Member, Plan, Step, Turn, Wave, give_back, plan, sizes, spread};
pub use selector::{KEYS, Selector};
pub use window::{parse_window, window_words};
