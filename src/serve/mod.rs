//! Wires a configuration to running servers: opens the state, binds every listener, says that it is
//! ready, and ends in order when it is told to.
//!
//! | file | idea |
//! |---|---|
//! | `tftp` | a TFTP server on each address that is served, as links come and go |
//! | `own_thread` | a thread with a runtime of its own, for DHCP and for TFTP |
//! | `notify` | systemd is told (sd_notify) |
//! | `scrub` | the store is read again by schedule |
//! | `error` | why it can't start, and what to do |

mod error;
mod notify;
mod own_thread;
mod scrub;
mod tftp;

pub use error::ServeError;
use own_thread::OwnThread;

use crate::{
    api, config,
    config::{Config, LogLevel},
    dhcpd, httpd,
    model::wire::Alarm,
    provisioner::{Provisioner, SystemClock},
    store::{ImageStore, Nbps},
};
use std::{
    net::SocketAddrV4,
    os::unix::fs::DirBuilderExt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    runtime::{Builder, Handle},
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
};

/// Longest wait for servers to end.
const END: Duration = Duration::from_secs(8);
/// Boot programs that most machines need.
const USUAL_NBPS: [(&str, &str); 2] = [("undionly.kpxe", "BIOS"), ("snponly.efi", "UEFI x86-64")];

/// Runs the service until it is told to end (SIGTERM, SIGINT). SIGHUP reads the boot programs again.
pub fn run(config: Config) -> Result<(), ServeError> {
    log_to_stderr(config.log);
    if !config.interfaces.iter().any(|i| i.mode != crate::dhcp::Mode::Off) {
        if config.interfaces.is_empty() {
            return Err(ServeError::NoInterface);
        }
        tracing::warn!("every interface is off: only HTTP and the API are served");
    }
    crate::sys::limits::raise_file_limit();
    let runtime = Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|source| ServeError::Start { what: "the runtime", source })?;
    let outcome = runtime.block_on(serve(config));
    // What still runs on blocking threads (a read of a dead disk) must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(2));
    outcome
}

async fn serve(config: Config) -> Result<(), ServeError> {
    let (stop, mut shutdown) = watch::channel(false);
    watch_signals(stop)?;
    let state = &config.state_dir;
    // Pins, tokens and images: whoever writes here decides what machines run.
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(state)
        .map_err(|source| ServeError::StateDir { dir: state.clone(), source })?;
    let images = ImageStore::open(&state.join("store"))?;
    let nbps = Nbps::load(&config.nbp_dir())?;
    let token = api::Token::load_or_make(&config.token_file())?;
    let clock = Arc::new(SystemClock::new());
    let provisioner = Provisioner::open(config.options(), state, images.clone(), nbps.clone(), clock)?;
    provisioner.follow_clock(state).await?;
    warn_of_missing(&nbps, &config);

    // Everything is bound before anything is served.
    let api_listener = tokio::net::TcpListener::bind(config.api.listen)
        .await
        .map_err(|source| ServeError::taken("the API", "tcp", config.api.listen, source))?;
    let http_at = SocketAddrV4::new(config.http.listen, config.http.port);
    let http = httpd::Server::bind(http_settings(&config, http_at))
        .map_err(|e| ServeError::taken("HTTP for machines", "tcp", e.addr.into(), e.source))?;
    // The sockets belong to the runtime of the thread that reads them.
    let dhcp_thread = OwnThread::new("pristine-dhcp")?;
    let dhcp = {
        let _entered = dhcp_thread.enter();
        dhcpd::Server::bind(dhcp_settings(&config))
            .map_err(|source| ServeError::Start { what: "DHCP", source })?
    };
    let tftp = tftp::Follower::bind(&config)?;

    let monitor = dhcp.monitor();
    let tftp_counters = tftp.counters();
    let line = http.line();
    let scrubber = scrub::Scrubber::new(images.clone(), provisioner.clone(), &config.images);
    let others: api::AskOthers = {
        let (monitor, scrubber) = (monitor.clone(), scrubber.clone());
        Arc::new(move || {
            let dhcp = serde_json::to_value(monitor.status()).unwrap_or_default();
            let tftp = tftp_counters.lock().unwrap_or_else(PoisonError::into_inner).to_json();
            let roots = serde_json::json!({ "roots": line.counters() });
            let parts = [("dhcp", dhcp), ("tftp", tftp), ("http", roots), ("store", scrubber.counters())];
            let counters = parts.into_iter().map(|(part, c)| (part.to_owned(), c)).collect();
            let mut alarms = alarms(&monitor);
            alarms.extend(scrubber.alarms());
            api::Others { counters, alarms }
        })
    };
    tracing::info!("ready: {}", summary(&config, &monitor, &tftp));
    let mut tasks: JoinSet<Result<(), ServeError>> = JoinSet::new();
    let failed = |what| move |source| ServeError::Ended { what, source };
    {
        let api = api::Api::new(provisioner.clone(), images.clone(), token, others, shutdown.clone());
        let shutdown = shutdown.clone();
        let settings = api::Settings { connections: config.bounds.api_connections, ..Default::default() };
        tasks.spawn(async move {
            api::run(api_listener, api, settings, shutdown).await.map_err(failed("the API"))
        });
    }
    {
        let (prov, shutdown) = (provisioner.clone(), shutdown.clone());
        tasks.spawn(async move { http.run(prov, images, shutdown).await.map_err(failed("HTTP")) });
    }
    {
        let (prov, shutdown) = (provisioner.clone(), shutdown.clone());
        let acks = Handle::current();
        let run = async move { dhcp.run(prov, acks, shutdown).await.map_err(failed("DHCP")) };
        tasks.spawn(dhcp_thread.run(run));
    }
    {
        let (prov, shutdown) = (provisioner.clone(), shutdown.clone());
        tasks.spawn(OwnThread::new("pristine-tftp")?.run(tftp.run(prov, shutdown)));
    }
    {
        let (prov, shutdown) = (provisioner.clone(), shutdown.clone());
        tasks.spawn(async move {
            prov.run_ticker(shutdown).await;
            Ok(())
        });
    }
    {
        let shutdown = shutdown.clone();
        tasks.spawn(async move {
            scrubber.run(shutdown).await;
            Ok(())
        });
    }
    reload_on_hangup(nbps);
    notify::ready();

    let outcome = tokio::select! {
        _ = async { let _ = shutdown.wait_for(|stop| *stop).await; } => Ok(()),
        ended = tasks.join_next() => match ended {
            Some(Ok(Err(error))) => Err(error),
            Some(Err(error)) => Err(ServeError::Ended { what: "a server", source: std::io::Error::other(error) }),
            _ => Ok(()),
        },
    };
    notify::stopping();
    if outcome.is_ok() {
        tracing::info!("ending: transfers in work may finish within {} s", END.as_secs());
        let all = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(END, all).await.is_err() {
            tracing::warn!("some servers did not end in time and were cut off");
        }
    }
    tasks.abort_all();
    if let Err(error) = provisioner.saved().await {
        tracing::error!(%error, "the last changes are not on disk");
    }
    tracing::info!("ended");
    outcome
}

fn http_settings(config: &Config, at: SocketAddrV4) -> httpd::Settings {
    let (http, bounds) = (&config.http, &config.bounds);
    let time = |s: crate::dhcp::Seconds| Duration::from_secs(s.0.into());
    let usual = httpd::Settings::default();
    httpd::Settings {
        listen: vec![at],
        max_connections: bounds.http_connections,
        max_per_peer: bounds.http_connections_per_client,
        header_time: time(http.head_time),
        body_time: time(http.body_time),
        pace: httpd::Pace { time: time(http.stall_time), ..usual.pace },
        turns: httpd::Turns { in_all: http.roots_at_once, per_rack: http.roots_per_rack },
        ..usual
    }
}

fn dhcp_settings(config: &Config) -> dhcpd::Settings {
    let b = &config.bounds;
    let usual = dhcpd::LinkBounds::default();
    let burst = usize::try_from(b.dhcp_strangers_burst).unwrap_or(usize::MAX);
    let bounds = dhcpd::LinkBounds {
        in_flight: b.dhcp_in_work,
        unknown_per_second: b.dhcp_strangers_per_second,
        unknown_burst: b.dhcp_strangers_burst,
        // Whoever was let in at once is to be let in with its next step as well.
        remembered: usual.remembered.max(burst.saturating_mul(2)),
    };
    let one = |i: &config::Interface| dhcpd::InterfaceSettings {
        name: i.name.clone(),
        mode: i.mode,
        http_port: config.http.port,
        router_advertisement: i.router_advertisement,
        probe_ms: if config.dhcp.probe { i.probe_ms } else { 0 },
        watch_others: i.watch_others.then(dhcpd::WatchPace::default),
        bounds,
    };
    dhcpd::Settings { interfaces: config.interfaces.iter().map(one).collect() }
}

/// What an operator should look at now.
fn alarms(monitor: &dhcpd::Monitor) -> Vec<Alarm> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let others = monitor.other_servers().into_iter();
    others
        .map(|(about, other, text)| {
            let since = now.saturating_sub(Duration::from_secs(other.since_seconds));
            Alarm { about, text, since: i64::try_from(since.as_millis()).unwrap_or(i64::MAX) }
        })
        .collect()
}

/// One line that names what is served where.
fn summary(config: &Config, monitor: &dhcpd::Monitor, tftp: &tftp::Follower) -> String {
    let mut parts = Vec::new();
    for link in monitor.status() {
        let mode = match link.mode {
            crate::dhcp::Mode::Proxy => "proxy DHCP",
            _ => "DHCP",
        };
        parts.push(match link.serving {
            Some(ip) => format!("{mode} on {} ({ip})", link.interface),
            None => format!("{mode} on {} when it is there", link.interface),
        });
    }
    parts.extend(tftp.addresses().into_iter().map(|a| format!("TFTP {a}")));
    parts.push(format!("HTTP {}:{}", config.http.listen, config.http.port));
    parts.push(format!("API {}", config.api.listen));
    parts.join(", ")
}

fn warn_of_missing(nbps: &Nbps, config: &Config) {
    for (file, firmware) in USUAL_NBPS {
        if nbps.get(file).is_none() {
            tracing::warn!(
                "boot program {file} ({firmware}) is not in {}: run `pristine nbp fetch`",
                config.nbp_dir().display()
            );
        }
    }
}

fn watch_signals(stop: watch::Sender<bool>) -> Result<(), ServeError> {
    let on = |kind| signal(kind).map_err(|source| ServeError::Start { what: "signal handling", source });
    let (mut terminate, mut interrupt) = (on(SignalKind::terminate())?, on(SignalKind::interrupt())?);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        let _ = stop.send(true);
        // A second one doesn't wait for anybody.
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::warn!("told twice: ending at once");
        std::process::exit(1);
    });
    Ok(())
}

fn reload_on_hangup(nbps: Nbps) {
    let Ok(mut hangup) = signal(SignalKind::hangup()) else { return };
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            let nbps = nbps.clone();
            match tokio::task::spawn_blocking(move || nbps.reload().map(|()| nbps.list().len())).await {
                Ok(Ok(count)) => tracing::info!(count, "boot programs read again"),
                Ok(Err(error)) => tracing::error!(%error, "the boot programs stay as they were"),
                Err(error) => tracing::error!(%error, "reading the boot programs failed"),
            }
        }
    });
}

fn log_to_stderr(level: LogLevel) {
    use std::io::IsTerminal;
    let level = match level {
        LogLevel::Error => tracing::Level::ERROR,
        LogLevel::Warn => tracing::Level::WARN,
        LogLevel::Info => tracing::Level::INFO,
        LogLevel::Debug => tracing::Level::DEBUG,
        LogLevel::Trace => tracing::Level::TRACE,
    };
    let _ = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .try_init();
}

/// A lock that outlives a panic of its holder.
type Shared<T> = Arc<Mutex<T>>;
