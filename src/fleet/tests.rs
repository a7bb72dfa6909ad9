#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
use super::Selector;
use crate::model::{Arch, ClientArch, Facts, Mac, Machine};
use proptest::prelude::*;

fn machine() -> Machine {
    let mut m = Machine::new(Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]), 0);
    m.other_macs = vec![Mac([2, 0, 0, 0, 0, 9])];
    m.hostname = Some("Web-12".into());
    m.rack = Some("a1".into());
    m.arch = Some(Arch::X86_64);
    m.firmware = Some(ClientArch::UefiX64);
    m.product = Some("Dell Inc. PowerEdge R640".into());
    m.uuid = Some("4c4c45440044481080354ac04f515032".into());
    m.labels.insert("role".into(), "db".into());
    let facts: Facts = serde_json::from_str(
        r#"{"vendor":"Dell Inc.","memory":68719476736,"firmware":{"version":"2.1.8"},
            "cpu":{"model":"Intel(R) Xeon(R) Gold 6130 CPU @ 2.10GHz","cores":32,"threads":64},
            "nics":[{"mac":"52:54:00:12:34:56","driver":"tg3"},
                    {"mac":"02:00:00:00:00:09","driver":"mlx5_core","neighbour":{"system":"leaf-3"}}]}"#,
    )
    .unwrap();
    m.facts = Some(facts.into());
    m
}

fn picks(text: &str) -> bool {
    text.parse::<Selector>().unwrap_or_else(|e| panic!("{e}")).picks(&machine())
}

#[test]
fn picks_by_what_is_known() {
    for (text, wanted) in [
        ("all", true),
        ("rack=a1 and arch=x86_64 and not label.role=db", false),
        ("rack = a1 and arch = X86_64 and not label.role = web", true),
        ("rack in (a1, a2)", true),
        ("rack in (b1)", false),
        ("hostname=web-*", true),
        ("hostname=*1*", true),
        ("hostname=web-*3", false),
        ("rack=A1", false),
        ("mac=52:54:00:12:34:56", true),
        ("mac=02:00:00:00:00:09", true),
        ("mac=52:54:*", true),
        ("uuid=4c4c4544-0044-4810-8035-4ac04f515032", true),
        ("uuid=4C4C4544004448108035*", true),
        // As firmware with the other order of bytes says it.
        ("uuid=44454c4c-4400-1048-8035-4ac04f515032", true),
        ("uuid=4c4c4544-0044-4810-8035-4ac04f515033", false),
        ("firmware=uefi", true),
        ("firmware=bios", false),
        ("product=\"*PowerEdge R6?0\"", false),
        ("product=\"*PowerEdge R6*0\"", true),
        ("has label.role and not has serial", true),
        ("serial!=X", true),
        ("label.role!=db", false),
        ("rack=b1 or rack=a1 and label.role=db", true),
        ("(rack=b1 or rack=a1) and label.role=web", false),
        ("not (rack=b1)", true),
        ("not not rack=a1", true),
        ("label.role==db", true),
        ("vendor=\"Dell*\" and firmware-version=2.* and cpu=\"*Xeon*\"", true),
        ("driver=mlx5_core and driver=tg3 and switch=leaf-3", true),
        ("driver=igb or switch=leaf-4", false),
        ("memory >= 64G and memory<=65536M and memory = 68719476736", true),
        ("memory > 64G or memory < 64G or memory != 64G", false),
        ("cpus>=64 and not cpus > 64 and has memory", true),
    ] {
        assert_eq!(picks(text), wanted, "{text}");
    }
}

#[test]
fn more_conditions_go_first() {
    let of = |text: &str| text.parse::<Selector>().unwrap().specificity();
    assert_eq!(of("all"), 0);
    assert_eq!(of("rack=a1"), 1);
    assert_eq!(of("rack in (a1, a2) and not label.role=db"), 2);
    assert_eq!(of("rack=a1 and arch=x86_64 or hostname=x"), 1);
    assert_eq!(of("all or rack=a1"), 0);
}

#[test]
fn errors_point_at_the_column_and_say_what_to_do() {
    let said = |text: &str| text.parse::<Selector>().unwrap_err();
    let e = said("rak = a1");
    assert_eq!((e.column, e.help.as_deref()), (1, Some("did you mean rack?")));
    assert!(e.to_string().contains("\n  rak = a1\n  ^\n"), "{e}");
    let e = said("rack=a1 and role=db");
    assert_eq!((e.column, e.help.as_deref()), (13, Some("a label is label.role")));
    assert!(e.to_string().contains("\n  rack=a1 and role=db\n              ^\n"), "{e}");
    for (text, column, part) in [
        ("", 1, "a key"),
        ("rack", 5, "`=`, `!=` or `in` after `rack`, but it ends"),
        ("rack=", 6, "a value, but it ends"),
        ("rack=a1 arch=x86_64", 9, "`and`, `or` or the end, but `arch` is there"),
        ("rack in a1", 9, "`(` after `in`"),
        ("rack in (a1", 12, "`,` or `)`"),
        ("(rack=a1", 9, "`)`, but it ends"),
        ("rack=a1)", 8, "`)` is there"),
        ("rack=\"a1", 6, "no partner"),
        ("rack=a1 & arch=x86_64", 9, "`&` means nothing here"),
        ("rack=not", 6, "a value, but `not` is there"),
        ("label.=x", 1, "`label.` is no key"),
        ("rack>a1", 5, "`=`, `!=` or `in` after `rack`, but `>` is there"),
        ("memory in (1G)", 8, "`>=` after `memory`, but `in` is there"),
        ("memory >= lots", 11, "`lots` is no number"),
        ("memory < 1Z", 10, "`1Z` is no number"),
        ("cpus > 99999999999999999999", 8, "is no number"),
        ("memory > 99999999999T", 10, "is no number"),
        ("ärack=1", 1, "means nothing here"),
    ] {
        let e = said(text);
        assert_eq!(e.column, column, "{text}: {e}");
        assert!(e.what.contains(part), "{text}: {e}");
    }
    assert!(said(&"(".repeat(5000)).what.contains("longer than"));
    assert!(said(&"(".repeat(100)).what.contains("nested deeper"));
    assert!(said(&"not ".repeat(100)).what.contains("nested deeper"));
    assert!(said(&["all"; 300].join(" or ")).what.contains("more than 256 conditions"));
}

/// The plain meaning of `*`, slow and obvious.
fn naive(pattern: &[char], text: &[char]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some(('*', rest)) => (0..=text.len()).any(|n| naive(rest, &text[n..])),
        Some((c, rest)) => text.first() == Some(c) && naive(rest, &text[1..]),
    }
}

proptest! {
    #[test]
    fn any_text_is_a_selector_or_a_clear_error(text in "\\PC{0,60}") {
        if let Err(e) = text.parse::<Selector>() {
            prop_assert!(e.column >= 1 && e.column <= text.chars().count() + 1);
        }
    }

    #[test]
    fn words_in_any_order_never_panic(words in proptest::collection::vec(
        prop_oneof![Just("rack"), Just("="), Just("a1"), Just("("), Just(")"), Just("and"), Just("or"), Just("not"),
                    Just("in"), Just(","), Just("has"), Just("all"), Just("!="), Just("label.x"), Just("\"q\"")], 0..20)) {
        let _ = words.join(" ").parse::<Selector>().map(|s| s.picks(&machine()));
    }

    #[test]
    fn a_star_stands_for_any_text(pattern in "[ab*]{1,8}", text in "[ab]{1,10}") {
        let mut m = machine();
        m.rack = Some(text.clone());
        let selector: Selector = format!("rack=\"{pattern}\"").parse().unwrap();
        let (p, t): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
        prop_assert_eq!(selector.picks(&m), naive(&p, &t));
    }

    #[test]
    fn what_it_writes_it_reads_and_not_turns_it_round(rack in "[a-c]1", label in "[a-c]") {
        let text = format!("rack={rack} and not label.role={label} or hostname=web*");
        let s: Selector = text.parse().unwrap();
        prop_assert_eq!(&s.to_string().parse::<Selector>().unwrap(), &s);
        let not: Selector = format!("not ({s})").parse().unwrap();
        prop_assert_ne!(s.picks(&machine()), not.picks(&machine()));
    }
}
