//! The one answer and the only writer of state.
//!
//! Every responder asks here and decides nothing itself, so all steps of one boot see one answer.
//! Each entry takes the one lock, changes memory, hands the changes to the store in that order, lets
//! go of the lock, and waits for the disk before it gives back what must not be forgotten (an ACK, a
//! script, an operator's order). The lock is never held over an await.
//!
//! | what | file |
//! |---|---|
//! | which boot target, and why | `answer` (pure) |
//! | what begins, continues and ends a boot attempt | `attempts` (pure), `attempt_table` |
//! | machines and strangers | `machines` (pure) |
//! | DHCP | `lease` |
//! | links that come while it runs | `flat` |
//! | boot files | `files` |
//! | the per-machine script and its token | `script` |
//! | reports and progress of a boot | `report` |
//! | what a machine is made of | `facts` |
//! | what a machine that waits, or an agent, is to do | `orders` |
//! | which machines a selector rule picks | `rules` (pure) |
//! | the last good image in the place of one that fails | `fallback` (pure), `suspect` |
//! | machines move to another image in waves | `fleet::plan` (pure), `roll` |
//! | they are made to boot anew | `fleet::reboots` (pure), `reboot` |
//! | what a machine gets besides its image, and its delivery | `configure` |
//! | operators' commands | `command`, `rule`, `rollout`, `profile`, `secret`, `power`, `explain` |
//! | many changes at once | `fleet::declare` (pure), `batch`, `declared` |
//! | what the audit log is told of a change | `audit` (pure) |
//! | who vouches for an image, where the site wants that | `vouching` |
//! | what is promised while the disk takes nothing | `promises` |
//! | stuck attempts, strangers that left | `ticker` |
//! | what machines could fill the log with | `seldom` |

mod answer;
mod attempt_table;
mod attempts;
mod audit;
mod batch;
mod clock;
mod command;
mod configure;
mod declared;
mod explain;
mod facts;
mod fallback;
mod files;
mod flat;
mod lease;
mod machines;
mod orders;
mod power;
mod profile;
mod promises;
mod reboot;
mod report;
mod roll;
mod rollout;
mod rule;
mod rules;
mod script;
mod secret;
mod seldom;
mod state;
mod stepped;
mod suspect;
mod ticker;
mod types;
mod vouching;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use answer::{Assignment, BootAnswer, InsteadOf, Policy, assigned, boot_answer, is_touched};
pub use clock::{Clock, SystemClock, TestClock};
pub use lease::Answered;
pub use orders::Order;
pub use secret::MAX_SECRET;
pub use seldom::Seldom;
pub use suspect::Suspect;
pub use types::{
    Bounds, CommandError, ConfigError, ConfigQuery, Explanation, FileAnswer, MachinePatch, Options, Pinned,
    Report, ReportError, SECRETS_KEY, ScriptError, ScriptQuery, Stats, TransferOutcome, Unknown,
};

use crate::{
    model::{BootAttempt, BootClient, Change, Image, Lease, Mac, Machine, Millis, audit::By},
    netboot::ServerAddr,
    profile::Profiles,
    store::{
        ImageStore, Nbps,
        db::{AuditLog, Commit, Db, DbError},
        vault::Vault,
    },
};
use rules::Rules;
use state::{Effects, State};
use std::{
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::broadcast;
use vouching::Vouching;

/// Changed attempts that a slow watcher may be behind before it misses some.
const WATCH_BACKLOG: usize = 1_024;

/// Between two lines of the log about boot files that were not fetched whole: who asks for them decides how many
/// there are.
const SAY_BROKEN: Duration = Duration::from_secs(1);

/// The provisioner, in the name of somebody: of the service, where nobody else is named. Cheap to clone; all
/// clones are one.
#[derive(Clone)]
pub struct Provisioner(Arc<Inner>, By);

struct Inner {
    state: Mutex<State>,
    db: Db,
    images: ImageStore,
    nbps: Nbps,
    vouching: Vouching,
    vault: Vault,
    /// Number of the newest record of the audit log. Changed under the lock of the state only.
    revision: AtomicU64,
    clock: Arc<dyn Clock>,
    watchers: broadcast::Sender<BootAttempt>,
    say_broken: Seldom,
}

impl Provisioner {
    /// Opens the state folder (and takes its lock) and goes on where the last service stopped.
    ///
    /// # Errors
    /// Another service holds the folder, or its database is damaged: see [`DbError`].
    pub fn open(
        options: Options,
        state_dir: &Path,
        images: ImageStore,
        nbps: Nbps,
        clock: Arc<dyn Clock>,
    ) -> Result<Provisioner, DbError> {
        let (found, loaded) = Db::find(state_dir)?;
        let now = clock.now();
        let vouching = Vouching::new(options.require_signature, state_dir);
        let unknown = |why| found.damaged(format!("{why}; was it written by a newer program?"));
        let rules = Rules::new(loaded.rules).map_err(unknown)?;
        let profiles = Profiles::new(loaded.profiles).map_err(unknown)?;
        let db = found.open()?;
        let key = options.secrets_key.clone().unwrap_or_else(|| state_dir.join(SECRETS_KEY));
        let mut state = State::new(options, loaded.machines, rules, loaded.default);
        state.profiles = profiles;
        state.rollouts = loaded.rollouts.into_iter().map(|r| (r.name.clone(), r)).collect();
        state.secrets = loaded.secrets.into_iter().map(|s| (s.name.clone(), s)).collect();
        state.leases.restore(loaded.leases);
        let seen =
            |digest| images.get(digest).ok().flatten().map(|image| attempts::Seen::of(&image.manifest));
        let gone = state.attempts.restore(loaded.attempts, now, seen);
        if !gone.is_empty() {
            drop(db.enqueue(gone));
        }
        if let Some(head) = loaded.log_head {
            // To be found in the system's log, where nobody can change it along with the database.
            tracing::info!(%head, "the audit log goes on");
        }
        let revision = AtomicU64::new(loaded.log_head.map_or(0, |head| head.seq));
        let (watchers, _) = broadcast::channel(WATCH_BACKLOG);
        let vault = Vault::new(&key);
        let state = Mutex::new(state);
        let say_broken = Seldom::new(SAY_BROKEN);
        let inner = Inner { state, db, images, nbps, vouching, vault, revision, clock, watchers, say_broken };
        Ok(Provisioner(Arc::new(inner), By::service()))
    }

    /// The same provisioner; what is done through this handle is done by somebody else.
    pub fn by(&self, by: By) -> Provisioner {
        Provisioner(self.0.clone(), by)
    }

    /// The audit log.
    pub fn audit_log(&self) -> AuditLog {
        self.0.db.audit_log()
    }

    /// Number of the newest record of the audit log: as long as it is the same, nothing of what the log
    /// tells has changed.
    pub fn revision(&self) -> u64 {
        self.0.revision.load(Ordering::Relaxed)
    }

    /// Whether an operator's command can be taken now; see [`Db::has_room`].
    pub fn takes_commands(&self) -> Result<(), CommandError> {
        Ok(self.0.db.has_room()?)
    }

    /// What this client boots now. Asked by every responder, through the entries below.
    pub fn boot_answer(&self, client: &BootClient, server: &ServerAddr) -> BootAnswer {
        self.state().answer(&self.0.images, client, server, &self.voucher())
    }

    /// Every machine heard of, by MAC.
    pub fn machines(&self) -> Vec<Machine> {
        let mut all: Vec<Machine> = self.state().machines.iter().cloned().collect();
        all.sort_by_key(|m| m.mac);
        all
    }

    /// Boot attempts of one machine (any of its MACs) or of all, newest first. Without token hashes.
    pub fn attempts(&self, mac: Option<Mac>, limit: usize) -> Vec<BootAttempt> {
        let state = self.state();
        state.attempts.newest(mac.map(|m| state.machines.primary(m)), limit)
    }

    /// One boot attempt on record, without its token hash.
    pub fn attempt(&self, id: crate::model::AttemptId) -> Option<BootAttempt> {
        let mut attempt = self.state().attempts.get(id)?.attempt.clone();
        attempt.token_hash = None;
        Some(attempt)
    }

    /// Every change of a boot attempt from now on, as the whole record. Without token hashes. One who
    /// reads too slowly is told how many were missed, and asks [`Provisioner::attempts`].
    pub fn watch(&self) -> broadcast::Receiver<BootAttempt> {
        self.0.watchers.subscribe()
    }

    /// Leases on record, by address.
    pub fn leases(&self) -> Vec<Lease> {
        let mut all: Vec<Lease> = self.state().leases.iter().cloned().collect();
        all.sort_by_key(|l| l.addr);
        all
    }

    /// Table sizes and counters.
    pub fn stats(&self) -> Stats {
        let (commits, commit_failures) = self.0.db.counts();
        let state = self.state();
        let (machines, strangers) = state.machines.counts();
        Stats {
            machines,
            strangers,
            leases: state.leases.iter().count(),
            attempts: state.attempts.len(),
            commits,
            commit_failures,
            unsaved: self.0.db.trouble().map_or(0, |t| t.waiting),
            ..state.stats.clone()
        }
    }

    /// The boot programs.
    pub fn nbps(&self) -> &Nbps {
        &self.0.nbps
    }

    /// The images.
    pub fn images(&self) -> &ImageStore {
        &self.0.images
    }

    /// Waits until everything that happened so far is on disk.
    pub async fn saved(&self) -> Result<(), DbError> {
        let commit = self.0.db.enqueue(Vec::new());
        commit.await
    }

    /// Waits until what an operator ordered is on disk, or until it is known that the disk takes nothing: who ordered
    /// it is told, and it is taken back.
    async fn order_saved(&self, mut commit: Commit) -> Result<(), DbError> {
        loop {
            if let Ok(done) = tokio::time::timeout(Duration::from_secs(1), &mut commit).await {
                return done;
            }
            // One that hangs gives no answer by itself.
            if let Some(trouble) = self.0.db.trouble() {
                return Err(trouble.error);
            }
        }
    }

    /// Whether the site's policy lets an image boot: what every answer asks.
    fn voucher(&self) -> impl Fn(&Image) -> Result<(), String> {
        let now = self.now();
        move |image| self.0.vouching.vouch(&self.0.images, image, now)
    }

    fn now(&self) -> Millis {
        self.0.clock.now()
    }

    /// A panic under the lock is a fault of ours that a test should find; the state is still the best
    /// there is, and a boot server that stops answering is worse.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands on what a move changed. To be called with the lock held: that is what keeps the order on
    /// disk the order in memory.
    fn hand_on(&self, _locked: &MutexGuard<'_, State>, fx: Effects) -> Commit {
        self.tell(fx.events);
        let mut changes = fx.changes;
        if let Ok(count @ 1..) = u64::try_from(fx.notes.len()) {
            let now = self.now();
            let first = self.0.revision.fetch_add(count, Ordering::Relaxed) + 1;
            let numbered = fx.notes.into_iter().zip(first..);
            let signed = numbered.map(|(note, seq)| note.signed(&self.1, now, first, seq));
            changes.extend(signed.map(|record| Change::Audit(record.into())));
        }
        self.0.db.enqueue(changes)
    }

    fn tell(&self, events: Vec<BootAttempt>) {
        for attempt in events {
            // Nobody may be watching.
            let _ = self.0.watchers.send(BootAttempt { token_hash: None, ..attempt });
        }
    }

    #[cfg(test)]
    fn db(&self) -> &Db {
        &self.0.db
    }
}

/// Random bytes from the system.
fn random<const N: usize>() -> Result<[u8; N], getrandom::Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}
