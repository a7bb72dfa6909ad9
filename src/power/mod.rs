//! BMCs: machines are switched on, off and made to boot anew. One call, one BMC, within bounds of time
//! and size; whatever a BMC does, the outcome is a [`PowerError`] that names it.
//!
//! | file | idea |
//! |---|---|
//! | `redfish` | which resources, in which order, and what their answers mean |
//! | `http` | one request over a connection that is proven to be the pinned BMC's |
//! | `pin` | a certificate by its fingerprint, and no other |
//! | `ipmi` | the `ipmitool` program |
//! | `check` | settings that can be right |
//! | `credentials` | user and password of a secret |

mod check;
mod credentials;
mod error;
mod http;
mod ipmi;
mod pin;
mod redfish;

pub use check::check;
pub use credentials::Credentials;
pub use error::PowerError;
pub use http::fingerprint;

use crate::model::{ClientArch, Power, PowerAction, wire::PowerStatus};
use std::time::Duration;

/// Longest that a call takes, as a rule.
pub const LONGEST: Duration = Duration::from_secs(50);

/// A BMC, and what it needs to be asked.
#[derive(Debug)]
pub struct Bmc {
    /// The machine's settings.
    pub power: Power,
    /// Who asks.
    pub credentials: Credentials,
    /// Firmware of the machine's last boot: IPMI names BIOS and UEFI apart.
    pub firmware: Option<ClientArch>,
    /// Longest that a call may take, all its requests together.
    pub longest: Duration,
}

impl Bmc {
    /// How the machine is now.
    ///
    /// # Errors
    /// The BMC can't be reached, isn't the pinned one, refuses or makes no sense; or the machine has none.
    pub async fn status(&self) -> Result<PowerStatus, PowerError> {
        self.within(async {
            match &self.power {
                Power::Redfish(bmc) => redfish::status(bmc, &self.credentials).await,
                Power::Ipmi(bmc) => ipmi::status(bmc, &self.credentials).await,
                Power::Manual | Power::Agent { .. } => Err(PowerError::NoBmc(self.power.to_string())),
            }
        })
        .await
    }

    /// Does something to the machine's power. When it returns, the BMC has taken the order, which is not
    /// to say that the machine obeys.
    ///
    /// # Errors
    /// As of [`Bmc::status`].
    pub async fn act(&self, action: PowerAction) -> Result<(), PowerError> {
        self.within(async {
            match &self.power {
                Power::Redfish(bmc) => redfish::act(bmc, &self.credentials, action).await,
                Power::Ipmi(bmc) => {
                    let bios = matches!(self.firmware, Some(ClientArch::Bios | ClientArch::BiosHttp));
                    ipmi::act(bmc, &self.credentials, action, !bios).await
                }
                Power::Manual | Power::Agent { .. } => Err(PowerError::NoBmc(self.power.to_string())),
            }
        })
        .await
    }

    async fn within<T>(&self, work: impl Future<Output = Result<T, PowerError>>) -> Result<T, PowerError> {
        tokio::time::timeout(self.longest, work).await.unwrap_or(Err(PowerError::Late(self.longest)))
    }
}
