//! `pristine power`: how a machine is switched on and off, and doing it.

use super::{Context, Failure, Outcome, text, why::Why};
use crate::{
    client::Client,
    model::{
        BootOnce, Digest, Ipmi, Machine, Millis, Power, PowerAction, PowerFault, Reboot, Redfish,
        wire::{PowerCertificate, PowerStatus},
    },
};
use clap::{Args, Subcommand, ValueEnum};

/// Machines' power.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Say how a machine is switched on and off
    #[command(after_help = "\
Examples:
  printf 'root:calvin' | pristine secret set bmc-a1
  pristine power set db7 --redfish https://10.0.7.1 --secret bmc-a1
  pristine power pin db7                 # shows its certificate's fingerprint, to compare
  pristine power set db8 --ipmi 10.0.7.2 --secret bmc-a1
  pristine power set db9 --agent         # its image runs `/run/pristine/agent run`
  pristine power set db9 --manual")]
    Set(Set),
    /// Pin the certificate of a machine's BMC; without a fingerprint, show it
    Pin {
        /// MAC or hostname
        machine: String,
        /// SHA-256 of the certificate, as the BMC's own pages or `openssl x509 -fingerprint -sha256` say it
        fingerprint: Option<String>,
        #[command(flatten)]
        why: Why,
    },
    /// Ask a machine's BMC whether it is on
    Status {
        /// MAC or hostname
        machine: String,
    },
    /// Switch a machine on
    On {
        /// MAC or hostname
        machine: String,
    },
    /// Switch a machine off at once, whatever it does
    Off {
        /// MAC or hostname
        machine: String,
    },
    /// Have a machine boot from the network now, whatever it does
    Cycle {
        /// MAC or hostname
        machine: String,
    },
    /// Have a machine boot from the network when it boots next
    BootOnce {
        /// MAC or hostname
        machine: String,
    },
}

/// What to set.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("method").required(true))]
pub struct Set {
    /// MAC or hostname; a MAC that was never seen is put on record
    machine: String,
    /// By its BMC over Redfish
    #[arg(long, value_name = "URL", group = "method", requires = "secret")]
    redfish: Option<String>,
    /// By its BMC over IPMI, with the program ipmitool
    #[arg(long, value_name = "ADDRESS", group = "method", requires = "secret")]
    ipmi: Option<String>,
    /// By the agent that its image runs (`/run/pristine/agent run`), which can restart it and no more
    #[arg(long, group = "method")]
    agent: bool,
    /// The agent starts what the machine is assigned by kexec, without its firmware
    #[arg(long, requires = "agent")]
    kexec: bool,
    /// By people
    #[arg(long, group = "method")]
    manual: bool,
    /// Secret that holds user:password of the BMC
    #[arg(long, value_name = "NAME")]
    secret: Option<String>,
    /// The BMC's ComputerSystem, by id or path, where it has several
    #[arg(long, value_name = "ID", requires = "redfish")]
    system: Option<String>,
    /// SHA-256 of the BMC's certificate [default: the pinned one, if the URL is the same]
    #[arg(long, value_name = "SHA256", requires = "redfish")]
    certificate: Option<String>,
    /// From where it boots once it is made to
    #[arg(long, default_value = "pxe", requires = "redfish")]
    boot: Boot,
    #[command(flatten)]
    why: Why,
}

/// The same as [`BootOnce`], for people.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Boot {
    /// The network, by PXE
    Pxe,
    /// The network, by UEFI HTTP Boot
    Http,
}

impl Command {
    pub(super) fn run(self, context: &Context) -> Outcome {
        let client = match &self {
            Command::Set(Set { why, .. }) | Command::Pin { why, .. } => why.client(context)?,
            _ => context.client()?,
        };
        let (machine, action) = match self {
            Command::Set(set) => {
                let machine = client.set_power(&set.machine, &set.power()?)?;
                return context.show(&machine, || said(&machine));
            }
            Command::Pin { machine, fingerprint, .. } => {
                return pin(context, &client, &machine, fingerprint);
            }
            Command::Status { machine } => {
                let status = client.power_status(&machine)?;
                return context.show(&status, || shown(&status));
            }
            Command::On { machine } => (machine, PowerAction::On),
            Command::Off { machine } => (machine, PowerAction::Off),
            Command::Cycle { machine } => (machine, PowerAction::Cycle),
            Command::BootOnce { machine } => (machine, PowerAction::BootOnce),
        };
        client.power_act(&machine, action)?;
        context.show(&serde_json::json!({ "machine": machine, "taken": action }), || {
            format!("{machine}: {action} was ordered\n")
        })
    }
}

impl Set {
    fn power(&self) -> Result<Power, Failure> {
        if self.agent {
            return Ok(Power::Agent { kexec: self.kexec });
        }
        let secret = self.secret.clone().unwrap_or_default();
        if let Some(url) = &self.redfish {
            let certificate = self.certificate.as_deref().map(parse_fingerprint).transpose()?;
            let boot = match self.boot {
                Boot::Pxe => BootOnce::Pxe,
                Boot::Http => BootOnce::Http,
            };
            let url = url.trim_end_matches('/').to_owned();
            return Ok(Power::Redfish(Redfish {
                url,
                system: self.system.clone(),
                secret,
                certificate,
                boot,
            }));
        }
        match &self.ipmi {
            Some(address) => Ok(Power::Ipmi(Ipmi { address: address.clone(), secret })),
            None => Ok(Power::Manual),
        }
    }
}

/// Hex digits, with the colons that other tools print.
fn parse_fingerprint(words: &str) -> Result<Digest, Failure> {
    let hex: String = words.chars().filter(|c| *c != ':').collect();
    hex.to_ascii_lowercase().parse().map_err(|_| {
        Failure::Usage(format!("`{words}` is no SHA-256 fingerprint: 64 hex digits, with or without colons"))
    })
}

fn pin(context: &Context, client: &Client, machine: &str, fingerprint: Option<String>) -> Outcome {
    let Some(fingerprint) = fingerprint else {
        let certificate = client.power_certificate(machine)?;
        return context.show(&certificate, || to_compare(machine, &certificate));
    };
    let certificate = parse_fingerprint(&fingerprint)?;
    let Power::Redfish(mut bmc) = client.machine(machine)?.power else {
        return Err(Failure::text(format!(
            "{machine} has no BMC with a certificate: name it with `pristine power set {machine} --redfish URL`"
        )));
    };
    bmc.certificate = Some(certificate);
    let machine = client.set_power(machine, &Power::Redfish(bmc))?;
    context.show(&machine, || said(&machine))
}

fn to_compare(machine: &str, certificate: &PowerCertificate) -> String {
    let PowerCertificate { url, shown, pinned } = certificate;
    match pinned {
        Some(pinned) if pinned == shown => format!("{url} shows the pinned certificate:\n  {shown}\n"),
        _ => {
            let before = pinned.map_or_else(String::new, |p| format!("pinned is another one:\n  {p}\n"));
            format!(
                "{url} shows a certificate with this SHA-256 fingerprint:\n  {shown}\n{before}\
                 Compare it with what the BMC's own pages or console say. If it is the same:\n  \
                 pristine power pin {machine} {shown}\n"
            )
        }
    }
}

fn said(machine: &Machine) -> String {
    let name = machine.name();
    let next = match &machine.power {
        Power::Redfish(bmc) if bmc.url.starts_with("http://") => {
            "; its password goes there in the clear, since the URL is no https".to_owned()
        }
        Power::Redfish(bmc) if bmc.certificate.is_none() => {
            format!("; pin its certificate next: `pristine power pin {name}`")
        }
        Power::Redfish(_) | Power::Ipmi(_) => format!("; try it with `pristine power status {name}`"),
        Power::Manual | Power::Agent { .. } => String::new(),
    };
    format!("power of {name}: {}{next}\n", machine.power)
}

fn shown(status: &PowerStatus) -> String {
    let or_dash = |v: &Option<String>| v.clone().unwrap_or_else(|| "-".into());
    text::pairs(&[
        ("power", status.state.clone()),
        ("boots once from", or_dash(&status.boot_once)),
        ("model", or_dash(&status.model)),
        ("system", or_dash(&status.system)),
        ("takes resets", if status.resets.is_empty() { "-".into() } else { status.resets.join(", ") }),
    ])
}

/// What a BMC did not do, for a machine's page.
pub(super) fn fault(fault: &PowerFault, now: Millis) -> String {
    let times = if fault.times == 1 { "once".to_owned() } else { format!("{} times in a row", fault.times) };
    format!("{times}, {} ago: {}", text::ago(now - fault.last), fault.error)
}

/// What came of a wish to boot a machine anew, for its page.
pub(super) fn reboot(reboot: &Reboot, now: Millis) -> String {
    let last = reboot
        .last
        .map_or_else(|| "not ordered yet".into(), |at| format!("ordered {} ago", text::ago(now - at)));
    let (taken, failed) = (reboot.taken, reboot.failed);
    let error = reboot.error.as_ref().map_or_else(String::new, |e| format!(": {e}"));
    format!("wanted for {}, {last} (taken {taken}, failed {failed}){error}", text::ago(now - reboot.since))
}
