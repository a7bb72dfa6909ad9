//! A simulated fleet against the real service: a storm, then a rollout whose limits hold.

use super::boots::{built, settings};
use pristine::{
    lab::{
        Folder, Mode,
        fleet::{Options, Tally, run},
        show::Timeline,
    },
    model::Phase,
};
use std::time::Duration;

const MACHINES: u32 = 80;

fn fleet() -> Tally {
    let folder = Folder::temporary("fleet").unwrap();
    let options = Options {
        settings: settings(&folder, Mode::Full),
        images: built("images/state"),
        machines: MACHINES,
        racks: 6,
        seed: 7,
        failures: 0.1,
        loss: 0.01,
        speed: 200.0,
        storm: Duration::from_secs(2),
        whole_blobs: false,
        from: "tiny:1".parse().unwrap(),
        to: Some("tiny:2".parse().unwrap()),
        in_flight: (40, 8),
        deadline: Duration::from_secs(20),
        kills: 3,
        bound: Duration::from_secs(240),
    };
    run(&options, &Timeline::default()).unwrap()
}

#[test]
fn a_fleet_comes_up_and_rolls_over_within_its_limits_while_the_service_is_killed() {
    // An error where a limit is exceeded.
    let tally = fleet();
    assert_eq!(tally.up(), MACHINES);
    let outcome = tally.outcome.clone().unwrap();
    let count = |phase| outcome.phases.get(&phase).copied().unwrap_or_default();
    assert_eq!(count(Phase::Done) + count(Phase::Failed), MACHINES, "{tally}");
    assert!(count(Phase::Failed) > 0, "{tally}");
    assert!(outcome.against_seed.is_empty(), "{tally}");
}
