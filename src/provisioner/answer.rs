//! The one answer: what a machine gets to boot, by which rule, and in words why.
//!
//! Pure. DHCP, TFTP, the script and `explain` all ask here, so that no two steps of one boot can see
//! different answers.
//!
//! Precedence: the machine's pin, then the rollout that moved it, then the first selector rule that picks it, then the site's default,
//! then a waiting screen. A site may say (`unknown`) that machines which no operator has touched or
//! picked don't get the default. An image that failed too many boots in a row gives way to the last one that was healthy (`fallback`).

use super::{Unknown, fallback, rules::Rules};
use crate::{
    model::{Arch, BootClient, BootTarget, ClientKind, Digest, Image, Machine, Rule},
    netboot::{NbpAnswer, ServerAddr, choose_nbp},
};
use serde::{Deserialize, Serialize};
use std::{borrow::Cow, sync::Arc};

/// What a machine is assigned, before anybody looked whether it can boot that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// What.
    pub target: BootTarget,
    /// By which rule.
    pub rule: Rule,
    /// In words, without the image's name.
    pub why: Cow<'static, str>,
}

/// What the last good image takes the place of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InsteadOf {
    /// The image that failed too often.
    pub image: Digest,
    /// The rule that chose it.
    pub rule: Rule,
}

/// What a look into the store gives; an error in words.
pub type Found = Result<Option<Arc<Image>>, String>;

/// The answer to "what does this client boot now?".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootAnswer {
    /// What the machine is assigned.
    pub target: BootTarget,
    /// By which rule.
    pub rule: Rule,
    /// In words, without the image's name.
    because: Cow<'static, str>,
    /// What was assigned and failed too often, where the last good image takes its place.
    pub instead_of: Option<InsteadOf>,
    /// Why it is not booted although it is assigned something: then no kernel is ever named to it.
    pub refused: Option<String>,
    /// The image, where one is assigned and may be booted.
    pub image: Option<Arc<Image>>,
    /// Where the machine is to wait: the image with whose kernel and initramfs it does so in memory. A screen
    /// of its boot program without one.
    pub waits_with: Option<Arc<Image>>,
    /// Why it doesn't wait with the image that the site names.
    unfit: Option<String>,
    /// What DHCP says: an NBP, a script's URL, or no more than an address. A refused client still
    /// gets its NBP, since the script's screen is where a person at the console reads the reason.
    pub nbp: NbpAnswer,
    /// [`Machine::generation`] at the time of the answer; 0 for a machine never seen.
    pub generation: u64,
}

/// True for a machine that an operator has named, described or pinned.
pub fn is_touched(machine: &Machine) -> bool {
    machine.pin.is_some()
        || machine.hostname.is_some()
        || machine.rack.is_some()
        || machine.nbp.is_some()
        || !machine.labels.is_empty()
}

/// A machine that once booted from us, or that an operator touched. Strangers can't make themselves
/// known by asking for addresses.
pub fn is_known(machine: &Machine) -> bool {
    is_touched(machine) || machine.running.is_some() || machine.last_healthy.is_some()
}

/// What the site says of machines without a pin.
#[derive(Clone, Copy, Debug)]
pub struct Policy<'a> {
    /// Selector rules.
    pub rules: &'a Rules,
    /// The default.
    pub default: Option<&'a BootTarget>,
    /// What machines get that no operator has touched.
    pub unknown: Unknown,
    /// Boots in a row that an image may fail on a machine before its last good one takes its place; 0:
    /// never.
    pub fallback_after: u32,
}

/// Which target, by which rule.
pub fn assigned(machine: Option<&Machine>, policy: Policy<'_>) -> Assignment {
    let Policy { rules, default, unknown, .. } = policy;
    if let Some(pin) = machine.and_then(|m| m.pin.clone()) {
        return Assignment { target: pin, rule: Rule::Pin, why: "it is pinned".into() };
    }
    if let Some(moved) = machine.and_then(|m| m.moved.clone()) {
        let why = format!("it has no pin, and rollout {} moved it", moved.rollout);
        return Assignment { target: moved.target, rule: Rule::Rollout, why: why.into() };
    }
    if let Some(rule) = machine.and_then(|m| rules.first_for(m)) {
        let why = format!("it has no pin, and rule {} picks it ({})", rule.name, rule.selector);
        return Assignment { target: rule.target.clone(), rule: Rule::Selector, why: why.into() };
    }
    if !machine.is_some_and(is_touched) {
        let policy = match unknown {
            Unknown::Ignore => {
                Some((BootTarget::Ignore, "no operator has touched it, and unknown = \"ignore\""))
            }
            Unknown::Discover => {
                Some((BootTarget::Discover, "no operator has touched it, and unknown = \"discover\""))
            }
            Unknown::Default => None,
        };
        if let Some((target, why)) = policy {
            return Assignment { target, rule: Rule::Unknown, why: why.into() };
        }
    }
    match default {
        Some(target) => Assignment {
            target: target.clone(),
            rule: Rule::Default,
            why: "it has no pin, no rule picks it, and this is the site's default".into(),
        },
        None => Assignment {
            target: BootTarget::Discover,
            rule: Rule::Unknown,
            why: "it has no pin, no rule picks it, and the site has no default".into(),
        },
    }
}

/// Answers. `find` looks an image up in the store; `vouch` says whether the site's policy lets it boot;
/// `waiting` gives the image that the site names to wait with.
pub fn boot_answer(
    client: &BootClient,
    machine: Option<&Machine>,
    policy: Policy<'_>,
    server: &ServerAddr,
    find: &dyn Fn(Digest) -> Found,
    vouch: &dyn Fn(&Image) -> Result<(), String>,
    waiting: &dyn Fn() -> Found,
) -> BootAnswer {
    let mut instead_of = None;
    let mut answer = assigned(machine, policy);
    let way_back = machine.and_then(|m| fallback::instead_of(m, &answer.target, policy.fallback_after));
    if let Some((good, failing)) = way_back {
        let failed = format!(
            "{} failed {} boots in a row (the last one {})",
            find(failing.image)
                .ok()
                .flatten()
                .map_or_else(|| format!("image {}", failing.image.short()), |i| i.manifest.tag.to_string()),
            failing.boots,
            failing.reason
        );
        match checked(good, client, machine, find, vouch) {
            Ok(_) => {
                instead_of = Some(InsteadOf { image: failing.image, rule: answer.rule });
                answer = Assignment {
                    target: BootTarget::Image { digest: good },
                    rule: Rule::Fallback,
                    why: format!("it was the last one that was healthy here, and {failed}").into(),
                };
            }
            Err(reason) => {
                let why = format!("{}; {failed}, but there is no way back: {reason}", answer.why);
                answer.why = why.into();
            }
        }
    }
    let Assignment { target, rule, why: because } = answer;
    let nbp = choose_nbp(client, &target, machine.and_then(|m| m.nbp.as_deref()), server);
    let (image, refused) = match &target {
        BootTarget::Image { digest } => match checked(*digest, client, machine, find, vouch) {
            Ok(image) => (Some(image), None),
            Err(reason) => (None, Some(reason)),
        },
        BootTarget::Local | BootTarget::Ignore | BootTarget::Discover => (None, None),
    };
    let waits_with = match &target {
        BootTarget::Discover => waiting().and_then(|image| match image {
            Some(image) if !image.manifest.native => {
                Err(format!("{} has an initramfs of its own, which would not wait", image.manifest.tag))
            }
            Some(image) => checked(image.digest, client, machine, find, vouch).map(Some),
            None => Ok(None),
        }),
        _ => Ok(None),
    };
    let generation = machine.map_or(0, |m| m.generation);
    let (waits_with, unfit) = match waits_with {
        Ok(image) => (image, None),
        Err(reason) => (None, Some(reason)),
    };
    BootAnswer { target, rule, because, instead_of, refused, image, waits_with, unfit, nbp, generation }
}

impl BootAnswer {
    /// The whole decision as a sentence.
    pub fn why(&self) -> String {
        let named = |image: &Image| format!("{} ({})", image.manifest.tag, image.digest.short());
        let what = match (&self.target, &self.image) {
            (_, Some(image)) => format!("boots {}", named(image)),
            (BootTarget::Image { digest }, None) => format!("is assigned image {}", digest.short()),
            (BootTarget::Local, _) => "boots its own disk".to_owned(),
            (BootTarget::Ignore, _) => "is not booted".to_owned(),
            (BootTarget::Discover, _) => match (&self.waits_with, &self.unfit) {
                (Some(image), _) => format!("waits in memory with {}", named(image)),
                (None, None) => "waits at the discover screen".to_owned(),
                (None, Some(reason)) => format!("waits at the discover screen, and not in memory ({reason})"),
            },
        };
        match &self.refused {
            None => format!("{what}: {}", self.because),
            Some(reason) => format!("{what} ({}), but is not booted: {reason}", self.because),
        }
    }
}

/// The image, if it is there, runs on this machine, and somebody vouches for it where that is needed.
/// What fails here is refused: no other image ever takes its place.
fn checked(
    digest: Digest,
    client: &BootClient,
    machine: Option<&Machine>,
    find: &dyn Fn(Digest) -> Found,
    vouch: &dyn Fn(&Image) -> Result<(), String>,
) -> Result<Arc<Image>, String> {
    let image = find(digest)?.ok_or_else(|| {
        format!("image {} is not in the store: import it again, or pin another", digest.short())
    })?;
    match arch_of(client, machine)? {
        Some(arch) if arch != image.manifest.arch => Err(format!(
            "image {} is for {}, and this machine's firmware starts {arch}: pin an image for {arch}",
            image.manifest.tag, image.manifest.arch
        )),
        _ => vouch(&image).map(|()| image),
    }
}

/// What kernels the machine runs, by what it says now, else by what it said at its last boot. `None`
/// where it never said.
fn arch_of(client: &BootClient, machine: Option<&Machine>) -> Result<Option<Arch>, String> {
    if client.kind == ClientKind::RaspberryPi {
        // It says 0 (PC BIOS) in option 93.
        return Ok(Some(Arch::Aarch64));
    }
    match client.arch {
        Some(firmware) => match firmware.arch() {
            Some(arch) => Ok(Some(arch)),
            None => Err(format!("its firmware ({firmware:?}) starts no 64-bit kernel")),
        },
        None => Ok(machine.and_then(|m| m.arch)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;
    use crate::{
        model::{BootMethod, ClientArch, Mac},
        provisioner::{
            rules::tests::rule,
            testing::{image, server},
        },
    };

    fn client(arch: ClientArch) -> BootClient {
        BootClient {
            mac: Mac([2, 0, 0, 0, 0, 1]),
            kind: ClientKind::Firmware(BootMethod::Pxe),
            arch: Some(arch),
            uuid: None,
            hostname: None,
        }
    }

    fn policy(default: Option<&BootTarget>, unknown: Unknown) -> Policy<'_> {
        static NONE: Rules = Rules::none();
        Policy { rules: &NONE, default, unknown, fallback_after: 3 }
    }

    fn ask(machine: Option<&Machine>, default: Option<&BootTarget>, unknown: Unknown) -> BootAnswer {
        let web = image("web:1", Arch::X86_64);
        let find = |d: Digest| Ok((d == web.digest).then(|| Arc::new(web.clone())));
        boot_answer(
            &client(ClientArch::UefiX64),
            machine,
            policy(default, unknown),
            &server(),
            &find,
            &|_| Ok(()),
            &|| Ok(None),
        )
    }

    fn web() -> BootTarget {
        BootTarget::Image { digest: image("web:1", Arch::X86_64).digest }
    }

    #[test]
    fn a_pin_goes_before_the_default_and_the_default_before_the_waiting_screen() {
        let mut m = Machine::new(Mac([2, 0, 0, 0, 0, 1]), 0);
        let got = ask(Some(&m), None, Unknown::Default);
        assert_eq!((got.target, got.rule), (BootTarget::Discover, Rule::Unknown));
        let got = ask(Some(&m), Some(&BootTarget::Local), Unknown::Default);
        assert_eq!((got.target, got.rule), (BootTarget::Local, Rule::Default));
        m.pin = Some(web());
        let got = ask(Some(&m), Some(&BootTarget::Local), Unknown::Ignore);
        let digest = got.image.as_ref().unwrap().digest.short();
        assert_eq!(got.why(), format!("boots web:1 ({digest}): it is pinned"));
        assert_eq!((got.target, got.rule), (web(), Rule::Pin));
    }

    #[test]
    fn strangers_get_what_the_site_says_and_a_touched_machine_the_default() {
        let mut m = Machine::new(Mac([2, 0, 0, 0, 0, 1]), 0);
        let default = web();
        for (unknown, target) in
            [(Unknown::Ignore, BootTarget::Ignore), (Unknown::Discover, BootTarget::Discover)]
        {
            for stranger in [None, Some(&m)] {
                let got = ask(stranger, Some(&default), unknown);
                assert_eq!((got.target, got.rule), (target.clone(), Rule::Unknown));
            }
        }
        assert_eq!(ask(None, Some(&default), Unknown::Ignore).nbp, NbpAnswer::AddressOnly);
        m.rack = Some("r1".into());
        let got = ask(Some(&m), Some(&default), Unknown::Ignore);
        assert_eq!((got.target, got.rule), (default, Rule::Default));
    }

    #[test]
    fn a_selector_rule_stands_between_pin_and_default_and_reaches_machines_nobody_touched() {
        let rules = Rules::new(vec![rule("x86", "arch=x86_64", 0), rule("rack", "rack=r1", 0)]).unwrap();
        let default = web();
        let mut m = Machine::new(Mac([2, 0, 0, 0, 0, 1]), 0);
        let of = |m: &Machine, unknown| {
            assigned(Some(m), Policy { rules: &rules, default: Some(&default), unknown, fallback_after: 3 })
        };
        assert_eq!(of(&m, Unknown::Ignore).rule, Rule::Unknown);
        m.arch = Some(Arch::X86_64);
        let got = of(&m, Unknown::Ignore);
        assert_eq!((got.target, got.rule), (BootTarget::Local, Rule::Selector));
        assert_eq!(got.why, "it has no pin, and rule x86 picks it (arch=x86_64)");
        m.pin = Some(web());
        assert_eq!(of(&m, Unknown::Default).rule, Rule::Pin);
        (m.pin, m.arch) = (None, None);
        assert_eq!(of(&m, Unknown::Default).rule, Rule::Default);
    }

    #[test]
    fn a_missing_image_and_a_wrong_arch_fail_closed_with_a_reason() {
        let gone = BootTarget::Image { digest: Digest::of(b"gone") };
        let got = ask(None, Some(&gone), Unknown::Default);
        assert_eq!(got.image, None);
        assert!(got.refused.as_deref().unwrap().contains("not in the store"), "{got:?}");
        assert!(got.why().contains("but is not booted"), "{}", got.why());

        let arm = image("arm:1", Arch::Aarch64);
        let find = |_| Ok(Some(Arc::new(arm.clone())));
        let target = BootTarget::Image { digest: arm.digest };
        let vouch = |_: &Image| Ok(());
        let policy = policy(Some(&target), Unknown::Default);
        let ask = |c: &BootClient| boot_answer(c, None, policy, &server(), &find, &vouch, &|| Ok(None));
        let got = ask(&client(ClientArch::UefiX64));
        assert_eq!(got.image, None);
        let reason = got.refused.unwrap();
        assert!(reason.contains("arm:1 is for aarch64") && reason.contains("x86_64"), "{reason}");
        assert!(ask(&client(ClientArch::UefiArm64)).image.is_some());
        assert!(ask(&client(ClientArch::UefiIa32)).refused.unwrap().contains("no 64-bit kernel"));
        let find = |_| Err("disk on fire".to_owned());
        let client = client(ClientArch::UefiX64);
        let got = boot_answer(&client, None, policy, &server(), &find, &vouch, &|| Ok(None));
        assert_eq!((got.image, got.refused.as_deref()), (None, Some("disk on fire")));
    }

    #[test]
    fn a_machine_that_waits_does_so_in_memory_where_an_image_of_ours_fits_it_and_else_at_the_screen() {
        let native = |tag: &str, arch| {
            let mut image = image(tag, arch);
            image.manifest.native = true;
            image
        };
        let ask = |waiting: Found, signed: bool| {
            let find = |_| Ok(waiting.clone().ok().flatten());
            let vouch = |_: &Image| if signed { Ok(()) } else { Err("nobody signed it".to_owned()) };
            let client = client(ClientArch::UefiX64);
            boot_answer(&client, None, policy(None, Unknown::Default), &server(), &find, &vouch, &|| {
                waiting.clone()
            })
        };
        let web = native("web:1", Arch::X86_64);
        let got = ask(Ok(Some(Arc::new(web.clone()))), true);
        assert_eq!((got.waits_with.as_deref(), got.image.as_deref()), (Some(&web), None));
        assert!(got.why().starts_with("waits in memory with web:1"), "{}", got.why());
        for (waiting, signed, why) in [
            (Ok(None), true, "waits at the discover screen: "),
            (Err("there is no image `web:9`".to_owned()), true, "no image `web:9`"),
            (Ok(Some(Arc::new(web))), false, "nobody signed it"),
            (Ok(Some(Arc::new(native("arm:1", Arch::Aarch64)))), true, "arm:1 is for aarch64"),
            (Ok(Some(Arc::new(image("live:1", Arch::X86_64)))), true, "live:1 has an initramfs of its own"),
        ] {
            let got = ask(waiting, signed);
            assert!(got.waits_with.is_none() && got.why().contains(why), "{}", got.why());
        }
    }

    #[test]
    fn an_image_that_nobody_vouches_for_is_refused_and_no_other_takes_its_place() {
        let mut m = Machine::new(Mac([2, 0, 0, 0, 0, 1]), 0);
        m.pin = Some(web());
        let (web, other) = (image("web:1", Arch::X86_64), image("other:1", Arch::X86_64));
        let default = BootTarget::Image { digest: other.digest };
        let find = |d: Digest| {
            Ok([&web, &other].into_iter().find(|i| i.digest == d).map(|i| Arc::new(Image::clone(i))))
        };
        let vouch = |i: &Image| match i.digest == other.digest {
            true => Ok(()),
            false => Err(format!("image {} is not signed", i.manifest.tag)),
        };
        let client = client(ClientArch::UefiX64);
        let policy = policy(Some(&default), Unknown::Default);
        let ask = |m| boot_answer(&client, m, policy, &server(), &find, &vouch, &|| Ok(None));
        let got = ask(Some(&m));
        assert_eq!((got.image.as_deref(), got.refused.as_deref()), (None, Some("image web:1 is not signed")));
        assert!(got.why().contains("it is pinned") && got.why().contains("not signed"), "{}", got.why());
        assert_eq!(ask(None).image.as_deref(), Some(&other));
    }
}
