//! What a running machine that asks is to do next: wait, restart, or boot its image by kexec.

use super::{
    CommandError, Provisioner, ReportError,
    command::whole,
    random,
    state::{Effects, State, heard_of},
};
use crate::{
    model::{
        AgentOrder, AttemptId, BootAttempt, BootClient, BootTarget, ClientKind, Digest, IpxeFeatures, Mac,
        Machine, Millis, Stage, Verdict,
    },
    netboot::{
        ServerAddr,
        cmdline::{self, CmdlineInput},
    },
    profile::Configured,
};
use serde::{Deserialize, Serialize};
use std::{fmt, net::Ipv4Addr};

/// An agent that asked for nothing in this time is gone: a question is held for 20 s, and one that the service has no
/// place for comes again within a minute.
const SILENT: Millis = 120_000;

/// What to do.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub enum Order {
    /// Nothing yet.
    Wait {
        /// What it waits for, for its console.
        why: String,
    },
    /// Restart, through the firmware.
    Restart {
        /// Why.
        why: String,
    },
    /// Start this image by kexec. The boot is on record, and its token speaks for it.
    Boot {
        /// The new boot attempt.
        boot: AttemptId,
        /// Its token.
        token: String,
        /// The image.
        image: Digest,
        /// Kernel command line.
        cmdline: String,
    },
}

/// Without the token, on the command line too.
impl fmt::Debug for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Order::Wait { why } => write!(f, "Wait({why})"),
            Order::Restart { why } => write!(f, "Restart({why})"),
            Order::Boot { boot, image, .. } => write!(f, "Boot({boot}, {image})"),
        }
    }
}

impl Provisioner {
    /// What the machine is to do now that waits with this token, or whose agent asks with the token of its healthy
    /// boot; `nic` is its NIC. Where it is to boot, that boot is on disk before this returns. Asked again with the same
    /// token, before anything of that boot was fetched, it is the same boot with another token: an answer may get lost.
    pub async fn orders(
        &self,
        server: ServerAddr,
        peer: Ipv4Addr,
        token: &str,
        nic: Option<Mac>,
    ) -> Result<Order, ReportError> {
        let Some(client) = self.asking(token, nic)? else {
            return Ok(Order::Wait { why: "no orders".to_owned() });
        };
        self.look(&client, &server).await;
        let no_random = |e: getrandom::Error| ReportError::NoRandomness(e.to_string());
        let new = Digest(random().map_err(no_random)?).to_string();
        let fresh = AttemptId(u64::from_ne_bytes(random().map_err(no_random)?));
        let (order, commit) = self.orders_locked(server, peer, token, &client, new, fresh)?;
        if matches!(order, Order::Boot { .. }) {
            commit.await?;
        }
        Ok(order)
    }

    /// Has a machine's agent restart it, or start by kexec what it is assigned. The order is on disk when this returns,
    /// counts for the boot that the machine is in, and is gone when it begins another one.
    ///
    /// # Errors
    /// [`CommandError::Conflict`] where no agent of the machine asks for orders.
    pub(super) async fn order_agent(&self, key: &str, kexec: bool) -> Result<(), CommandError> {
        let (this, key) = (self.clone(), key.to_owned());
        whole(async move {
            let now = this.now();
            let given = move |state: &State, machine: &mut Machine| {
                let latest = state.attempts.latest(machine.mac).filter(|t| t.attempt.verdict == Verdict::Healthy);
                let asks = latest.filter(|t| t.asked.is_some_and(|at| now.saturating_sub(at) < SILENT));
                let Some(boot) = asks.map(|t| t.attempt.id) else {
                    return Err(CommandError::Conflict(format!(
                        "no agent of {} asks for orders: its image must run `/run/pristine/agent run`, and be healthy",
                        machine.name()
                    )));
                };
                machine.order = Some(AgentOrder { boot, kexec, at: now });
                Ok(())
            };
            this.change(&key, false, given).await.map(drop)
        })
        .await
    }

    /// Who asks with this token; `None` for an agent that nobody gave an order.
    fn asking(&self, token: &str, nic: Option<Mac>) -> Result<Option<BootClient>, ReportError> {
        let now = self.now();
        let mut state = self.state();
        let attempt = waiting(&state, token)?.clone();
        let agent = attempt.verdict == Verdict::Healthy;
        state.attempts.update(attempt.id, |t| {
            t.heard = now;
            t.asked = Some(now).filter(|_| agent);
            false
        });
        let ordered =
            state.machines.get(attempt.mac).and_then(|m| m.order).is_some_and(|o| o.boot == attempt.id);
        let latest = state.attempts.latest(attempt.mac).is_some_and(|t| t.attempt.id == attempt.id);
        if agent && latest && !ordered {
            return Ok(None);
        }
        let nic = nic.filter(|nic| state.machines.primary(*nic) == attempt.mac);
        Ok(Some(BootClient {
            mac: nic.unwrap_or(attempt.mac),
            // As its boot program would ask, if it went through the firmware.
            kind: ClientKind::Ipxe(IpxeFeatures { http: true, ..IpxeFeatures::default() }),
            arch: attempt.firmware,
            uuid: None,
            hostname: None,
        }))
    }

    fn orders_locked(
        &self,
        server: ServerAddr,
        peer: Ipv4Addr,
        asks: &str,
        client: &BootClient,
        token: String,
        fresh: AttemptId,
    ) -> Result<(Order, crate::store::db::Commit), ReportError> {
        let now = self.now();
        let mut fx = Effects::default();
        let mut locked = self.state();
        let state = &mut *locked;
        let from = waiting(state, asks)?.clone();
        let Some(mut machine) = state.machines.get(from.mac).cloned() else {
            return Err(ReportError::UnknownToken);
        };
        let agent = from.verdict == Verdict::Healthy;
        let restart = machine.order.is_some_and(|order| order.boot == from.id && !order.kexec);
        let mut answer = self.checked(state, client, &server);
        let configured = state.configure(&mut answer, &machine, Some(peer));
        let (inputs, configured) = configured.unzip();
        let given = state.attempts.latest(from.mac).map(|t| t.attempt.id).filter(|id| *id != from.id);
        let id = given.unwrap_or(fresh);
        let order = match (&answer.image, &answer.refused, &answer.target) {
            _ if agent && restart => Order::Restart { why: "it is told to".to_owned() },
            (Some(image), ..) => {
                let input = CmdlineInput {
                    server,
                    mac: client.mac,
                    boot: id,
                    token: &token,
                    args: configured.as_ref().map_or(&[], |c| &c.config.kernel_args),
                    config: configured.as_ref().and_then(Configured::for_init),
                    roots: state.roots,
                };
                match cmdline::for_boot(image, &input) {
                    Ok(cmdline) => Order::Boot { boot: id, token, image: image.digest, cmdline },
                    Err(e) => Order::Wait { why: e.to_string() },
                }
            }
            // The boot program's screen says what is wrong.
            _ if agent => Order::Restart { why: format!("it {}", answer.why()) },
            (None, Some(reason), _) => Order::Wait { why: reason.clone() },
            (None, None, BootTarget::Discover) => {
                Order::Wait { why: "no image is assigned to it yet".to_owned() }
            }
            (None, None, _) => Order::Restart { why: format!("it {}", answer.why()) },
        };
        let before = machine.clone();
        heard_of(&mut machine, now);
        if let Order::Boot { token, image, .. } = &order {
            machine.running = Some(*image);
            machine.order = None;
            if given.is_none() {
                state.begin(from.mac, id, Stage::Script, from.firmware, false, now, &mut fx);
            }
            state.update(id, &mut fx, |t| {
                t.attempt.kexec_from = Some(from.id);
                if let Some(script) = t.attempt.stages.first_mut() {
                    script.detail = answer.image.as_ref().map(|i| format!("{}, by kexec", i.manifest.tag));
                }
                true
            });
            if let Some(inputs) = inputs {
                state.configs.keep(id, inputs);
            }
            let config = configured.map(Configured::into_record);
            state.fix(id, &answer, config, token, peer, from.firmware, now, &mut fx);
            state.stats.scripts += 1;
        }
        if machine != before && state.machines.is_known(machine.mac) {
            state.put(machine, &mut fx);
        }
        let commit = self.hand_on(&locked, fx);
        Ok((order, commit))
    }
}

/// The boot with this token, if it waits for an assignment or is healthy, so that its agent may be told
/// what to do: it is its machine's latest one, or the latest one was begun by it and nothing of that was fetched yet.
fn waiting<'a>(state: &'a State, token: &str) -> Result<&'a BootAttempt, ReportError> {
    let attempt = &state.attempts.by_token(token).ok_or(ReportError::UnknownToken)?.attempt;
    let waits = attempt.waits_with.is_some() || attempt.verdict == Verdict::Healthy;
    let latest = state.attempts.latest(attempt.mac).map(|t| &t.attempt);
    let open = latest.is_some_and(|latest| match latest.id == attempt.id {
        true => match attempt.verdict {
            Verdict::Running | Verdict::Stuck { .. } => waits,
            // An agent, of a boot that was told what it is to do.
            Verdict::Healthy => true,
            _ => false,
        },
        false => latest.kexec_from == Some(attempt.id) && latest.reached() == Some(Stage::Script),
    });
    match open {
        true => Ok(attempt),
        false if !waits => Err(ReportError::DeadToken("been told what it boots")),
        false => Err(ReportError::DeadToken("been followed by another one")),
    }
}
