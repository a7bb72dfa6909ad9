//! Which machines are meant: selectors over what is known of them. Pure.

mod parse;
mod selector;
#[cfg(test)]
mod tests;

pub use parse::SelectorError;
pub use selector::{KEYS, Selector};
