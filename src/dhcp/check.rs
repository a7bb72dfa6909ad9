//! Whether a [`Site`] makes sense.

use super::Site;

/// What is wrong with a site's addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SiteError {}

impl Site {
    /// Everything that is wrong, most basic first; empty when the site can be served.
    pub fn check(&self) -> Vec<SiteError> {
        Vec::new()
    }
}
