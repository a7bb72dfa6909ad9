//! The counters of `status` in the text format of Prometheus (version 0.0.4).

use super::{Refusal, router::Api, site};
use crate::model::wire::Status;
use axum::{
    extract::State,
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};
use serde_json::Value;
use std::fmt::Write;

const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// What tells the things of a list apart, as links.
const NAMES: [&str; 3] = ["interface", "name", "addr"];

pub async fn metrics(State(api): State<Api>) -> Result<Response, Refusal> {
    let status = site::status_of(&api).await?;
    Ok(([(CONTENT_TYPE, TEXT)], text(&status)).into_response())
}

fn text(status: &Status) -> String {
    let mut out = String::new();
    let version = escape(&status.version);
    // Writing to a string can't fail.
    let _ = writeln!(out, "pristine_build_info{{version=\"{version}\"}} 1");
    let _ = writeln!(out, "pristine_uptime_seconds {}", status.uptime_seconds);
    let _ = writeln!(out, "pristine_alarms {}", status.alarms.len());
    for (part, counters) in &status.counters {
        write(&mut out, &format!("pristine_{}", tidy(part)), "", counters);
    }
    out
}

/// A line for each number under `value`: its path is the metric's name, a list's element a label.
fn write(out: &mut String, name: &str, labels: &str, value: &Value) {
    match value {
        Value::Number(number) => {
            let _ = writeln!(out, "{name}{labels} {number}");
        }
        Value::Bool(is) => {
            let _ = writeln!(out, "{name}{labels} {}", u8::from(*is));
        }
        Value::Object(fields) => {
            for (field, value) in fields {
                write(out, &format!("{name}_{}", tidy(field)), labels, value);
            }
        }
        Value::Array(elements) => {
            for element in elements {
                let named = NAMES.iter().find_map(|n| Some((n, element.get(n)?.as_str()?)));
                if let (Some((key, value)), "") = (named, labels) {
                    write(out, name, &format!("{{{key}=\"{}\"}}", escape(value)), element);
                }
            }
        }
        Value::Null | Value::String(_) => {}
    }
}

/// As a part of a metric's name: letters, digits and `_`.
fn tidy(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' }).collect()
}

/// As the value of a label.
fn escape(value: &str) -> String {
    value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_number_is_a_line() {
        let counters = [
            ("http", json!({ "roots": { "going": 3, "download_ms": 1.5 }, "why": "text", "none": null })),
            (
                "dhcp",
                json!([{ "interface": "eth\"1", "serving": "198.18.0.1", "packets": 7, "up": true, "by": [1] }]),
            ),
            ("provisioner", json!({ "silent": { "not-ours: no": 2 } })),
        ];
        let status = Status {
            version: "1.0".into(),
            started: 0,
            uptime_seconds: 9,
            alarms: Vec::new(),
            counters: counters.map(|(part, value)| (part.to_owned(), value)).into(),
        };
        assert_eq!(
            text(&status),
            r#"pristine_build_info{version="1.0"} 1
pristine_uptime_seconds 9
pristine_alarms 0
pristine_dhcp_packets{interface="eth\"1"} 7
pristine_dhcp_up{interface="eth\"1"} 1
pristine_http_roots_download_ms 1.5
pristine_http_roots_going 3
pristine_provisioner_silent_not_ours__no 2
"#
        );
    }
}
