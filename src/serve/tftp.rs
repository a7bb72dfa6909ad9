//! A TFTP server on each address that is served. A client must be answered from the address that it
//! asked, so each address has a socket of its own, and links that come or change later get theirs
//! when they do.

use super::{ServeError, Shared};
use crate::{
    config::Config,
    dhcp::Mode,
    netboot::ServerAddr,
    provisioner::Provisioner,
    sys::links::{self, Interface},
    tftpd,
};
use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};
use tokio::{sync::watch, task::JoinSet};

/// Before an address that could not be bound is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// Counters of every server that ran.
#[derive(Debug, Default)]
pub struct AllCounters(Vec<Arc<tftpd::Counters>>);

impl AllCounters {
    /// Sums by name.
    pub fn to_json(&self) -> serde_json::Value {
        let sum = |f: fn(&tftpd::Counters) -> u64| self.0.iter().map(|c| f(c)).sum::<u64>();
        serde_json::json!({
            "malformed": sum(|c| c.malformed.load(Ordering::Relaxed)),
            "refused": sum(|c| c.refused.load(Ordering::Relaxed)),
            "over_bound": sum(|c| c.over_bound.load(Ordering::Relaxed)),
            "repeated": sum(|c| c.repeated.load(Ordering::Relaxed)),
        })
    }
}

/// TFTP servers that follow the served links.
pub struct Follower {
    names: Vec<String>,
    port: u16,
    http_port: u16,
    /// Transfers at once of one address, and of one client.
    most: (usize, usize),
    links: watch::Receiver<Arc<Vec<Interface>>>,
    bound: Vec<(Ipv4Addr, tftpd::Server)>,
    counters: Shared<AllCounters>,
}

impl Follower {
    /// Binds on every address that is served now. Within a tokio runtime.
    pub fn bind(config: &Config) -> Result<Follower, ServeError> {
        let start = |source| ServeError::Start { what: "looking at the interfaces", source };
        let served = config.interfaces.iter().filter(|i| i.mode != Mode::Off && config.tftp.enabled);
        let mut follower = Follower {
            names: served.map(|i| i.name.clone()).collect(),
            port: config.tftp.port,
            http_port: config.http.port,
            most: (config.bounds.tftp_transfers, config.bounds.tftp_transfers_per_client),
            links: links::follow().map_err(start)?,
            bound: Vec::new(),
            counters: Shared::default(),
        };
        for ip in follower.wanted() {
            let server =
                follower.server(ip).map_err(|e| ServeError::taken("TFTP", "udp", e.addr.into(), e.source))?;
            follower.bound.push((ip, server));
        }
        Ok(follower)
    }

    /// Where it listens.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.bound.iter().flat_map(|(_, server)| server.local_addrs()).collect()
    }

    /// What the servers count.
    pub fn counters(&self) -> Shared<AllCounters> {
        Arc::clone(&self.counters)
    }

    /// Serves until `shutdown`.
    pub async fn run(
        mut self,
        files: Provisioner,
        mut shutdown: watch::Receiver<bool>,
    ) -> Result<(), ServeError> {
        let mut tasks: JoinSet<std::io::Result<()>> = JoinSet::new();
        // Each server ends when its own sender says so or is dropped.
        let mut running: BTreeMap<Ipv4Addr, watch::Sender<bool>> = BTreeMap::new();
        let begin = |ip: Ipv4Addr, server: tftpd::Server, tasks: &mut JoinSet<_>| {
            let (stop, stopped) = watch::channel(false);
            tasks.spawn(server.run(files.clone(), stopped));
            (ip, stop)
        };
        for (ip, server) in std::mem::take(&mut self.bound) {
            running.extend([begin(ip, server, &mut tasks)]);
        }
        let mut missing = false;
        loop {
            tokio::select! {
                _ = async { let _ = shutdown.wait_for(|stop| *stop).await; } => break,
                changed = self.links.changed() => if changed.is_err() { break },
                // The port may be free again: the server that was stopped on this address has ended.
                () = tokio::time::sleep(AGAIN), if missing => {}
            }
            let wanted = self.wanted();
            let before = std::mem::take(&mut missing);
            running.retain(|ip, _| wanted.contains(ip));
            for ip in wanted {
                if running.contains_key(&ip) {
                    continue;
                }
                match self.server(ip) {
                    Ok(server) => {
                        tracing::info!("TFTP is served on {ip} as well");
                        running.extend([begin(ip, server, &mut tasks)]);
                    }
                    Err(error) => {
                        if !before {
                            tracing::error!(%error, "no TFTP on {ip}; trying again");
                        }
                        missing = true;
                    }
                }
            }
        }
        for stop in running.values() {
            let _ = stop.send(true);
        }
        while tasks.join_next().await.is_some() {}
        Ok(())
    }

    /// Addresses of the served links as they are now.
    fn wanted(&mut self) -> Vec<Ipv4Addr> {
        let links = self.links.borrow_and_update();
        let served = links.iter().filter(|l| self.names.contains(&l.name));
        let mut ips: Vec<Ipv4Addr> = served.filter_map(|l| l.address().map(|(ip, _)| ip)).collect();
        ips.sort();
        ips.dedup();
        ips
    }

    fn server(&self, ip: Ipv4Addr) -> Result<tftpd::Server, tftpd::BindError> {
        let servers = vec![ServerAddr { ip, http_port: self.http_port }];
        let (max_transfers, max_per_peer) = self.most;
        let settings =
            tftpd::Settings { servers, port: self.port, max_transfers, max_per_peer, ..Default::default() };
        let server = tftpd::Server::bind(settings)?;
        self.counters.lock().unwrap_or_else(PoisonError::into_inner).0.push(server.counters());
        Ok(server)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;
    use crate::{
        provisioner::{Options, SystemClock},
        store::{ImageStore, Nbps, testing::TempDir},
    };
    use tokio::{net::UdpSocket, time::timeout};

    #[tokio::test]
    async fn an_address_whose_port_is_taken_when_it_comes_is_served_once_the_port_is_free() {
        let dir = TempDir::new();
        let images = ImageStore::open(&dir.path().join("store")).unwrap();
        let nbps = Nbps::load(dir.path()).unwrap();
        let clock = Arc::new(SystemClock::new());
        let files = Provisioner::open(Options::default(), dir.path(), images, nbps, clock).unwrap();
        let taken = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let at = taken.local_addr().unwrap();
        let (tell, links) = watch::channel(Arc::default());
        let follower = Follower {
            names: vec!["eth1".into()],
            port: at.port(),
            http_port: 8080,
            most: (8, 8),
            links,
            bound: Vec::new(),
            counters: Shared::default(),
        };
        let (stop, stopped) = watch::channel(false);
        let running = tokio::spawn(follower.run(files, stopped));
        let link = Interface {
            index: 2,
            name: "eth1".into(),
            mac: None,
            mtu: 1500,
            up: true,
            carrier: true,
            loopback: false,
            master: None,
            ipv4: vec![(Ipv4Addr::LOCALHOST, 8)],
        };
        tell.send(Arc::new(vec![link])).unwrap();
        // On this one thread, the follower has tried by then.
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        drop(taken);
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let asked = async {
            let mut answer = [0; 600];
            loop {
                let _ = client.send_to(b"\0\x01autoexec.ipxe\0octet\0", at).await;
                let got = timeout(Duration::from_millis(200), client.recv_from(&mut answer)).await;
                if let Ok(Ok((_, from))) = got {
                    // Enough: an error ends the transfer.
                    client.send_to(b"\0\x05\0\0\0", from).await.unwrap();
                    return answer;
                }
            }
        };
        let answer = timeout(Duration::from_secs(20), asked).await.expect("served after all");
        assert_eq!(answer[..4], [0, 3, 0, 1], "the first block");
        stop.send(true).unwrap();
        running.await.unwrap().unwrap();
    }
}
