//! A machine that nobody has assigned an image to: it waits in memory, says who it is, and asks.

use crate::{
    console::{say, screen},
    failure::Result,
    net::{self, Network},
    orders::{self, Next, Order},
    report::Reporter,
};
use std::time::Instant;

/// Waits until the service says what to boot. Returns otherwise only where asking makes no sense any more.
pub fn wait(reporter: &Reporter, network: &mut Network) -> Result<Next> {
    let mac = net::mac_text(network.mac);
    show(reporter, network, &mac);
    let mut renewed = Instant::now();
    let mut said = String::new();
    let order = orders::wait(reporter, &mac, |why| {
        if said != why {
            say(format!("waiting: {why}"));
            why.clone_into(&mut said);
        }
        // A lease of hours ends while nobody looks.
        let half = network.lease.lease.map(|lease| lease / 2);
        if half.is_some_and(|half| renewed.elapsed() >= half) && net::renew(network) {
            renewed = Instant::now();
        }
    })?;
    match order {
        Order::Boot(next) => Ok(next),
        Order::Wait { why } | Order::Restart { why } => restart(&why),
    }
}

/// The firmware does what has no need of us: a boot from the machine's own disk, for one.
fn restart(why: &str) -> ! {
    say(format!("restarting through the firmware: {why}"));
    crate::restart()
}

fn show(reporter: &Reporter, network: &Network, mac: &str) {
    let dmi = |name: &str| {
        let text = std::fs::read_to_string(format!("/sys/class/dmi/id/{name}")).unwrap_or_default();
        text.trim().to_owned()
    };
    let lines = [
        format!("MAC:     {mac} ({})", network.interface),
        format!("Address: {}", network.lease.addr),
        format!("Serial:  {}", dmi("product_serial")),
        format!("Machine: {} {}", dmi("sys_vendor"), dmi("product_name")),
        format!("UUID:    {}", dmi("product_uuid")),
        format!("Server:  http://{}", reporter.server),
        String::new(),
        format!("To give it an image: pristine pin {mac} NAME:VERSION"),
        "It then starts that image from memory, without its firmware.".to_owned(),
    ];
    screen("PRISTINE: WAITING FOR AN ASSIGNMENT", &lines);
}
