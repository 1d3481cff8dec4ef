//! The reference of the configuration, `docs/configuration.md`, from the definitions of its keys.

use crate::config::SCHEMA;

/// What stands above the keys.
const HEAD: &str = "\
<!-- Generated from the definitions of the keys. To update it: UPDATE_DOCS=1 cargo test -p wattle-session reference -->

# Configuration

Every key of `wattle train`, by section. A key is set by `--set SECTION.KEY=VALUE`, by a TOML file, by `--preset`, or \
has its default, in this order of precedence. Unknown keys, values out of range and keys that contradict each other are \
errors, reported together before anything is started.

A run directory's `config.toml` holds the value of every key that has an effect, and reproduces the run. A key that has \
no effect beside the others is left out of it; if you set one, a warning says why, or an error where it is of section \
`model`.

When a run is resumed, its keys must be what they were, except those marked *may change at a resume*. Paths are relative \
to where the program is started, and are made absolute.

";

/// The whole text.
pub fn reference() -> String {
    format!("{HEAD}{}", SCHEMA.reference())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_reference_is_what_the_definitions_make() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&path, reference()).unwrap();
        }
        let stored = std::fs::read_to_string(&path).unwrap();
        assert!(
            stored == reference(),
            "docs/configuration.md is not what the definitions of the keys make; to update it: \
             UPDATE_DOCS=1 cargo test -p wattle-session reference"
        );
    }
}
