//! Operators' commands about machines' power, and what becomes of what a BMC said. No lock is held while
//! one is asked.

use super::{CommandError, Provisioner, command::whole, state::Effects};
use crate::{
    model::{
        Digest, Mac, Machine, Power, PowerAction, PowerFault,
        wire::{PowerCertificate, PowerStatus},
    },
    power::{Bmc, Credentials, LONGEST, PowerError, check, fingerprint},
};

impl Provisioner {
    /// Sets how a machine is switched on and off. A certificate that is pinned stays for the same URL
    /// where the new settings name none.
    pub async fn set_power(&self, key: &str, mut power: Power) -> Result<Machine, CommandError> {
        check(&power).map_err(|error| CommandError::Bad(error.to_string()))?;
        if let Some(secret) = power.secret() {
            // There, and user:password.
            let value = self.secret(secret).await?;
            Credentials::of(secret, &value).map_err(|error| CommandError::Bad(error.to_string()))?;
        }
        let (this, key) = (self.clone(), key.to_owned());
        whole(async move {
            let mac = this
                .change(&key, true, move |_, machine| {
                    if let (Power::Redfish(new), Power::Redfish(old)) = (&mut power, &machine.power)
                        && new.url == old.url
                    {
                        new.certificate = new.certificate.or(old.certificate);
                    }
                    if machine.power != power {
                        machine.power = power;
                        machine.power_fault = None;
                    }
                    Ok(())
                })
                .await?;
            this.machine(&mac.to_string())
        })
        .await
    }

    /// A machine's power, as its BMC says now.
    pub async fn power_status(&self, key: &str) -> Result<PowerStatus, CommandError> {
        let machine = self.machine(key)?;
        let outcome = match self.bmc(&machine).await {
            Ok(bmc) => bmc.status().await,
            Err(error) => Err(error),
        };
        self.outcome(&machine, outcome)
    }

    /// Has a machine's BMC, or its agent, do something to its power; done once that took it.
    pub async fn power_act(&self, key: &str, action: PowerAction) -> Result<(), CommandError> {
        let machine = self.machine(key)?;
        tracing::info!(machine = %machine.name(), %action, "power, by an operator");
        let outcome = self.act(&machine, action).await;
        self.outcome(&machine, outcome)
    }

    /// The certificate that a machine's BMC shows. Nothing is sent to it.
    pub async fn power_certificate(&self, key: &str) -> Result<PowerCertificate, CommandError> {
        let machine = self.machine(key)?;
        let Power::Redfish(bmc) = &machine.power else {
            let error = PowerError::NoBmc(machine.power.to_string());
            return Err(CommandError::Power { machine: machine.name(), error });
        };
        let (url, pinned) = (bmc.url.clone(), bmc.certificate);
        let shown: Result<Digest, PowerError> = fingerprint(&url).await;
        let shown = shown.map_err(|error| CommandError::Power { machine: machine.name(), error })?;
        Ok(PowerCertificate { url, shown, pinned })
    }

    pub(super) async fn act(&self, machine: &Machine, action: PowerAction) -> Result<(), PowerError> {
        if let (Power::Agent { kexec }, PowerAction::Cycle) = (&machine.power, action) {
            let ordered = self.order_agent(&machine.mac.to_string(), *kexec).await;
            return ordered.map_err(|e| PowerError::Settings(e.to_string()));
        }
        self.bmc(machine).await?.act(action).await
    }

    /// A machine's BMC with what it takes to ask it.
    async fn bmc(&self, machine: &Machine) -> Result<Bmc, PowerError> {
        let power = machine.power.clone();
        let Some(name) = power.secret().map(str::to_owned) else {
            return Err(PowerError::NoBmc(power.to_string()));
        };
        let secret = self.secret(&name).await.map_err(|e| PowerError::Settings(e.to_string()))?;
        let credentials = Credentials::of(&name, &secret)?;
        Ok(Bmc { power, credentials, firmware: machine.firmware, longest: LONGEST })
    }

    /// Notes on a machine's record what its BMC did.
    fn outcome<T>(&self, machine: &Machine, outcome: Result<T, PowerError>) -> Result<T, CommandError> {
        let why = outcome.as_ref().err().map(ToString::to_string);
        self.note_power(machine.mac, why);
        outcome.map_err(|error| CommandError::Power { machine: machine.name(), error })
    }

    /// Counts what a BMC did not do, in a row; `None`: it did.
    pub(super) fn note_power(&self, mac: Mac, error: Option<String>) {
        let now = self.now();
        let mut fx = Effects::default();
        let mut locked = self.state();
        let Some(mut machine) = locked.machines.get(mac).filter(|m| locked.machines.is_known(m.mac)).cloned()
        else {
            return;
        };
        let before = machine.power_fault.take();
        machine.power_fault = error.filter(|_| machine.power.secret().is_some()).map(|error| {
            let (times, since) = before.as_ref().map_or((0, now), |f| (f.times, f.since));
            PowerFault { times: times.saturating_add(1), since, last: now, error }
        });
        if machine.power_fault != before {
            locked.put(machine, &mut fx);
        }
        drop(self.hand_on(&locked, fx));
    }
}
