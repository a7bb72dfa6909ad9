//! The machines' lives: off until somebody gives them power, up, hung or restarting by themselves after.

use super::{
    Options, PORT, RELAY, SERVER,
    dice::Dice,
    fate::Fates,
    machine::{End, Outcome, World, boot},
    relay::Relay,
};
use crate::{lab::LabError, model::Mac};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{runtime::Runtime, sync::watch, time::sleep};

/// From a failed boot to the next one, as `init` waits; passes faster as all delays do.
const RESTART: Duration = Duration::from_secs(30);

/// All machines, each a task.
pub struct Crew {
    runtime: Runtime,
    power: HashMap<Mac, watch::Sender<u64>>,
    record: Arc<Record>,
}

/// What is known of all.
#[derive(Default)]
struct Record {
    /// Machines that are booting.
    running: AtomicUsize,
    /// Machines that came to rest at least once.
    settled: AtomicUsize,
    boots: Mutex<Vec<Outcome>>,
}

impl Record {
    fn boots(&self) -> MutexGuard<'_, Vec<Outcome>> {
        self.boots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Crew {
    /// All machines, off. To be called inside the fleet's namespace: threads and sockets stay there.
    pub fn start(options: &Options, fates: Fates, fleet: &[Mac]) -> Result<Crew, LabError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(LabError::file("the fleet's threads"))?;
        let relay = runtime
            .block_on(Relay::open(RELAY, SERVER, fates.dice, options.loss))
            .map_err(LabError::file("the relay agent's socket"))?;
        runtime.spawn(relay.clone().run());
        let world = Arc::new(World {
            relay,
            server: SERVER,
            port: PORT,
            fates,
            speed: options.speed,
            whole_blobs: options.whole_blobs,
        });
        let record = Arc::<Record>::default();
        let power = fleet
            .iter()
            .map(|mac| {
                let (power, cycles) = watch::channel(0);
                runtime.spawn(live(Arc::clone(&world), *mac, cycles, Arc::clone(&record)));
                (*mac, power)
            })
            .collect();
        Ok(Crew { runtime, power, record })
    }

    /// Takes a machine's power away for a moment.
    pub fn power_cycle(&self, mac: Mac) {
        if let Some(power) = self.power.get(&mac) {
            power.send_modify(|cycles| *cycles += 1);
        }
    }

    /// Gives power to all, at times spread over `storm`.
    pub fn power_on_over(&self, storm: Duration, dice: &Dice) {
        for (mac, power) in &self.power {
            let (power, at) = (power.clone(), storm.mul_f64(dice.part(*mac, "power", 0)));
            self.runtime.spawn(async move {
                sleep(at).await;
                power.send_modify(|cycles| *cycles += 1);
            });
        }
    }

    /// Machines that are booting now.
    pub fn running(&self) -> usize {
        self.record.running.load(Ordering::SeqCst)
    }

    /// Machines that came to rest at least once.
    pub fn settled(&self) -> usize {
        self.record.settled.load(Ordering::SeqCst)
    }

    /// The boots that ended since the last call.
    pub fn take(&self) -> Vec<Outcome> {
        std::mem::take(&mut *self.record.boots())
    }
}

async fn live(world: Arc<World>, mac: Mac, mut cycles: watch::Receiver<u64>, record: Arc<Record>) {
    let mut nth = 0;
    let mut settled = false;
    while cycles.changed().await.is_ok() {
        record.running.fetch_add(1, Ordering::SeqCst);
        // As a server does, it goes on until it is up.
        loop {
            nth += 1;
            let outcome = tokio::select! {
                outcome = boot(&world, mac, nth) => outcome,
                Ok(()) = cycles.changed() => continue,
            };
            record.boots().push(outcome);
            if matches!(outcome.end, End::Healthy | End::Hung) {
                break;
            }
            sleep(world.fates.dice.around(mac, "restart", nth, RESTART).div_f64(world.speed)).await;
        }
        if !settled {
            settled = true;
            record.settled.fetch_add(1, Ordering::SeqCst);
        }
        record.running.fetch_sub(1, Ordering::SeqCst);
    }
}
