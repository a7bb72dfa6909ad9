//! Every key there is, asked of the code itself: a key that is not known makes serde name those that
//! are. The test of `docs/configuration.md` uses it.

use super::Config;

/// Tables of the file, each with a document that holds the key `?` in it and what its other keys
/// need to be there.
const TABLES: &[(&str, &str)] = &[
    ("", "'?' = 1"),
    ("http", "[http]\n'?' = 1"),
    ("tftp", "[tftp]\n'?' = 1"),
    ("api", "[api]\n'?' = 1"),
    ("nbp", "[nbp]\n'?' = 1"),
    ("images", "[images]\n'?' = 1"),
    ("dhcp", "[dhcp]\n'?' = 1"),
    ("bounds", "[bounds]\n'?' = 1"),
    ("interface", "[[interface]]\n'?' = 1"),
    ("subnet", "[[subnet]]\n'?' = 1"),
    ("subnet.routes", "[[subnet]]\n[[subnet.routes]]\n'?' = 1"),
    ("subnet.options", "[[subnet]]\n[[subnet.options]]\n'?' = 1"),
    ("reservation", "[[reservation]]\n'?' = 1"),
];

/// Every key as (table, key); keys of the top table have an empty one.
pub fn all_keys() -> Vec<(&'static str, String)> {
    let mut keys = Vec::new();
    for (table, document) in TABLES {
        let Err(error) = toml::from_str::<Config>(document) else { continue };
        let Some((_, expected)) = error.message().split_once("expected") else { continue };
        keys.extend(expected.split('`').skip(1).step_by(2).map(|k| (*table, k.to_owned())));
    }
    keys
}
