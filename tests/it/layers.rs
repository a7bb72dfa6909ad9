//! Imports run downward only. A module may name modules of a lower rank, and itself; never a
//! sibling of its own rank. Pure modules name no I/O crate at all.

use std::{collections::BTreeMap, fs, path::Path};

/// The order of `src/lib.rs`. Keep both the same.
const RANKS: &[&[&str]] = &[
    &["model"],
    &["fleet", "netboot"],
    &["dhcp", "profile", "sys"],
    &["power", "store"],
    &["image", "provisioner"],
    &["api", "client", "config", "dhcpd", "httpd", "tftpd"],
    &["doctor", "serve"],
    &["lab"],
    &["cli"],
];
const PURE: &[&str] = &["model", "fleet", "netboot", "dhcp", "profile"];
const IMPURE_WORDS: &[&str] = &[
    "tokio",
    "axum",
    "hyper",
    "socket2",
    "rusqlite",
    "std::fs",
    "std::time",
    "SystemTime",
    "Instant",
    "getrandom",
    "TcpStream",
    "UdpSocket",
];

fn sources(dir: &Path, out: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            out.push((path.strip_prefix(src()).unwrap().to_string_lossy().into_owned(), text));
        }
    }
}

fn src() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn module_of(file: &str) -> &str {
    file.split('/').next().unwrap().trim_end_matches(".rs")
}

/// Lines that are code: no comment lines, nothing from a file's test module on.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let code = text.split("#[cfg(test)]").next().unwrap_or("");
    code.lines().enumerate().filter(|(_, l)| !l.trim_start().starts_with("//"))
}

#[test]
fn imports_run_downward_only() {
    let rank: BTreeMap<&str, usize> =
        RANKS.iter().enumerate().flat_map(|(i, names)| names.iter().map(move |n| (*n, i))).collect();
    let mut files = Vec::new();
    sources(&src(), &mut files);
    let mut wrong = Vec::new();
    for (file, text) in &files {
        let module = module_of(file);
        if matches!(module, "lib" | "main") {
            continue;
        }
        let own =
            *rank.get(module).unwrap_or_else(|| panic!("src/{file}: `{module}` has no rank in layers.rs"));
        for (n, line) in code_lines(text) {
            for rest in line.split("crate::").skip(1) {
                let named: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                if named != module && rank.get(named.as_str()).is_some_and(|r| *r >= own) {
                    wrong.push(format!("src/{file}:{}: `{module}` imports `{named}`", n + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "imports that run upward or sideways:\n{}", wrong.join("\n"));
}

#[test]
fn pure_modules_do_no_io() {
    let mut files = Vec::new();
    sources(&src(), &mut files);
    let mut wrong = Vec::new();
    for (file, text) in files.iter().filter(|(f, _)| PURE.contains(&module_of(f))) {
        for (n, line) in code_lines(text) {
            for word in IMPURE_WORDS.iter().filter(|w| line.contains(**w)) {
                wrong.push(format!("src/{file}:{}: `{word}` in a pure module", n + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
