//! Power settings that can be right, before anybody is asked.

use super::{PowerError, http::Origin};
use crate::model::Power;

/// Longest URL, address, name in the settings.
const LONGEST: usize = 256;

/// Says what is wrong with the settings of a machine.
///
/// # Errors
/// [`PowerError::Settings`] with what to write instead.
pub fn check(power: &Power) -> Result<(), PowerError> {
    match power {
        Power::Manual | Power::Agent { .. } => Ok(()),
        Power::Redfish(bmc) => {
            let origin = Origin::parse(&bmc.url)?;
            if bmc.certificate.is_some() && !origin.tls {
                return Err(PowerError::Settings(format!(
                    "`{}` has no certificate to pin: write https://, or leave the certificate out",
                    bmc.url
                )));
            }
            let system = bmc.system.as_deref().unwrap_or("1");
            let fine = (1..=LONGEST).contains(&system.len())
                && system.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~/:@".contains(&b))
                && !system.starts_with("//")
                && !system.contains("..");
            if fine {
                return Ok(());
            }
            Err(PowerError::Settings(
                "the system is its id, as in `System.Embedded.1`, or its path, as in `/redfish/v1/Systems/1`"
                    .into(),
            ))
        }
        Power::Ipmi(bmc) => super::ipmi::host_and_port(&bmc.address).map(drop),
    }
}
