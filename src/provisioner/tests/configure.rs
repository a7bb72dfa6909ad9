//! Configurations: fixed with the script, given out once, never another machine's.

use super::*;
use crate::model::{MachineConfig, Secret};

const NONCE: &str = "00112233445566778899aabbccddeeff";

async fn ask(w: &World, token: &str, peer: Ipv4Addr, nonce: &str) -> Result<MachineConfig, ConfigError> {
    let sent = w.prov.config(token, peer, ConfigQuery { nonce: nonce.into() }).await?;
    Ok(serde_json::from_slice(&sent).unwrap())
}

/// A world with web:1 as its default and a profile for all that names `text` in a file.
async fn world(text: &str) -> World {
    let w = World::new(Options::default());
    w.import("web:1", Arch::X86_64, true);
    w.prov.set_default(Some("web:1")).await.unwrap();
    set(&w, text).await.unwrap();
    w
}

async fn set(w: &World, text: &str) -> Result<(), CommandError> {
    let document = format!("kernel_args = ['hugepages=8']\n[[file]]\npath = '/etc/x'\ntemplate = '{text}'\n");
    w.prov.set_profile("all", "all", &document).await.map(drop)
}

#[tokio::test]
async fn a_boot_gets_the_configuration_of_its_script_once_and_again_only_by_the_same_number() {
    let w = world("{{ mac }} at {{ address }}").await;
    let peer = w.lease(1, PXE).await.unwrap();
    let script = w.script(1, peer).await.unwrap();
    let attempt = w.last();
    let promised = attempt.config.unwrap();
    assert!(script.contains(" hugepages=8 "), "{script}");
    assert!(script.contains(&format!(" pristine.config={} ", promised.digest.short())), "{script}");
    assert_eq!((promised.profiles.as_slice(), promised.delivered), (&["all".to_owned()][..], None));

    let token = token_of(&script);
    assert_eq!(ask(&w, "nobody's", peer, NONCE).await, Err(ConfigError::UnknownToken));
    assert_eq!(ask(&w, &token, peer, "short").await, Err(ConfigError::BadNonce));
    let elsewhere = ask(&w, &token, Ipv4Addr::new(198, 18, 0, 77), NONCE).await;
    assert!(matches!(elsewhere, Err(ConfigError::NotItsAddress(_))), "{elsewhere:?}");
    let config = ask(&w, &token, peer, NONCE).await.unwrap();
    assert_eq!(config.files[0].content, format!("{M} at {peer}"));
    assert_eq!(ask(&w, &token, peer, NONCE).await.unwrap(), config, "a lost answer is given again");
    assert!(w.prov.alarms().is_empty());
    assert!(w.last().config.unwrap().delivered.is_some());

    let other = NONCE.replace('0', "1");
    assert_eq!(ask(&w, &token, peer, &other).await, Err(ConfigError::Taken));
    let alarm = w.prov.alarms().remove(0);
    assert!(alarm.text.contains("asked for the configuration") && alarm.about.contains(M), "{alarm:?}");
    let w = w.restart();
    assert_eq!(ask(&w, &token, peer, &other).await, Err(ConfigError::Taken), "after a restart, too");
    let switch = stage(Stage::SwitchRoot);
    w.prov.report(&token, switch).await.unwrap();
    let late = ask(&w, &token, peer, NONCE).await;
    assert_eq!(late, Err(ConfigError::DeadToken("left its initramfs")), "the running image gets nothing");
}

#[tokio::test]
async fn a_boot_can_not_straddle_a_change() {
    let w = world("old").await;
    let peer = w.lease(1, PXE).await.unwrap();
    let token = token_of(&w.script(1, peer).await.unwrap());
    set(&w, "new").await.unwrap();
    assert_eq!(ask(&w, &token, peer, NONCE).await.unwrap().files[0].content, "old", "as its script promised");
    let w = w.restart();
    let changed = ask(&w, &token, peer, NONCE).await;
    assert!(matches!(changed, Err(ConfigError::Changed(_))), "what was promised is gone: {changed:?}");
    set(&w, "old").await.unwrap();
    assert_eq!(ask(&w, &token, peer, NONCE).await.unwrap().files[0].content, "old", "and can be made again");
    w.prov.remove_profile("all").await.unwrap();
    assert!(matches!(w.prov.profile("all"), Err(CommandError::NoProfile { .. })));
    let w = w.restart();
    let token = token_of(&w.script(1, peer).await.unwrap());
    assert_eq!(w.last().config, None);
    assert!(ask(&w, &token, peer, NONCE).await.unwrap().is_empty());
}

#[tokio::test]
async fn what_can_not_be_made_for_a_machine_is_refused_when_it_is_set_and_when_it_boots() {
    let w = world("x").await;
    let peer = w.lease(1, PXE).await.unwrap();
    w.script(1, peer).await.unwrap();
    let said = set(&w, "{{ label.role }}").await.unwrap_err().to_string();
    for part in ["profile all, file /etc/x, template, line 1", "role", M, "nothing was changed"] {
        assert!(said.contains(part), "{said}");
    }
    let patch = |value: Option<&str>| {
        let labels = BTreeMap::from([("role".to_owned(), value.map(str::to_owned))]);
        MachinePatch { labels, ..MachinePatch::default() }
    };
    w.prov.set_machine(M, patch(Some("db"))).await.unwrap();
    set(&w, "{{ label.role }}").await.unwrap();
    assert_eq!(w.prov.rendered(M).unwrap().config.files[0].content, "db");
    assert_eq!(w.prov.explain(M).unwrap().profiles, ["all"]);
    w.prov.set_machine(M, patch(None)).await.unwrap();
    assert!(w.prov.rendered(M).unwrap_err().to_string().contains("role"));
    assert!(w.prov.explain(M).unwrap().refused.unwrap().contains("profile all"));
    let script = w.script(1, peer).await.unwrap();
    assert!(script.contains("profile all") && !script.contains("kernel "), "the console says why: {script}");
    assert!(matches!(w.last().verdict, Verdict::Failed { .. }));
}

#[tokio::test]
async fn an_initramfs_that_is_not_pristines_gets_kernel_arguments_and_no_promise() {
    let w = World::new(Options::default());
    w.import("live:1", Arch::X86_64, false);
    w.prov.set_default(Some("live:1")).await.unwrap();
    set(&w, "x").await.unwrap();
    let peer = w.lease(1, PXE).await.unwrap();
    let script = w.script(1, peer).await.unwrap();
    assert!(script.contains(" hugepages=8") && !script.contains("pristine.config"), "{script}");
    assert!(w.prov.rendered(M).unwrap().left_out.unwrap().contains("live:1 brings its own initramfs"));
}

#[tokio::test]
async fn secrets_reach_their_machine_and_nothing_else() {
    let w = world("x").await;
    let peer = w.lease(1, PXE).await.unwrap();
    w.script(1, peer).await.unwrap();
    let text = r#"{{ secret("db") }}"#;
    let said = set(&w, text).await.unwrap_err().to_string();
    assert!(said.contains("there is no secret db") && said.contains(M), "{said}");
    w.prov.set_secret("db", Secret::new(b"hunter2".to_vec())).await.unwrap();
    set(&w, text).await.unwrap();
    let rendered = w.prov.rendered(M).unwrap();
    assert_eq!(rendered.config.files[0].content, "<secret:db>");
    let token = token_of(&w.script(1, peer).await.unwrap());
    let config = ask(&w, &token, peer, NONCE).await.unwrap();
    assert_eq!(config.files[0].content, "hunter2");
    assert_eq!(w.last().config.unwrap().digest, rendered.digest.unwrap(), "the record names what is shown");
    assert!(!serde_json::to_string(&w.prov.attempts(None, 10)).unwrap().contains("hunter2"));
    w.prov.remove_secret("db").await.unwrap();
    let gone = ask(&w, &token, peer, NONCE).await;
    assert!(matches!(gone, Err(ConfigError::Secrets(_))), "{gone:?}");
    assert!(w.prov.explain(M).unwrap().refused.unwrap().contains("no secret db"));
}
