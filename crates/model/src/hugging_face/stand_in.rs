//! Files that lie where a model's file is expected and are something else: what a repository or a server gave
//! instead.

use std::io::Read;
use std::path::Path;

use crate::error::ModelError;

/// How much of a file is looked at.
const HEAD_LEN: u64 = 512;
/// How much of a text is quoted.
const QUOTED_CHARS: usize = 60;

/// What the file at `path` is instead of weights, a configuration or a tokenizer, and what to do; `None` if it may be
/// one.
pub fn stand_in(path: &Path) -> Option<String> {
    let head = head(path)?;
    let text = String::from_utf8_lossy(&head);
    let text = text.trim_start_matches('\u{feff}').trim_start();
    if text.starts_with("version https://git-lfs.github.com/spec/") {
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        return Some(format!(
            "is a Git LFS pointer, not the file itself; fetch it with git lfs pull in {}, or download it again",
            dir.display()
        ));
    }
    let lower = text.to_ascii_lowercase();
    if ["<!doctype html", "<html", "<head"].iter().any(|start| lower.starts_with(start)) {
        return Some(
            "is an HTML page, not the file itself: the server sent an error or a login page; download it again, \
             with access to the model"
                .to_owned(),
        );
    }
    if lower.starts_with("<?xml") || lower.starts_with("<error") {
        return Some("is a server's error in XML, not the file itself; download it again".to_owned());
    }
    None
}

/// [`stand_in`] as an error.
pub(crate) fn refuse_stand_in(path: &Path) -> Result<(), ModelError> {
    match stand_in(path) {
        Some(reason) => Err(ModelError::Directory { path: path.to_owned(), reason }),
        None => Ok(()),
    }
}

/// What a file that should be binary says, if it begins with text: an error message that was saved under its name.
pub(crate) fn text_instead(path: &Path) -> Option<String> {
    let head = head(path)?;
    let text = std::str::from_utf8(&head).ok()?.trim();
    let is_text = !text.is_empty() && !text.chars().any(|c| c.is_control() && !c.is_whitespace());
    is_text.then(|| {
        let quoted: String = text.chars().take(QUOTED_CHARS).collect();
        format!("is a text that begins with {quoted:?}, not the file itself; download it again")
    })
}

fn head(path: &Path) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    wattle_files::open(path).ok()?.take(HEAD_LEN).read_to_end(&mut head).ok()?;
    Some(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(content: &[u8]) -> Option<String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        std::fs::write(&path, content).unwrap();
        stand_in(&path).or_else(|| text_instead(&path))
    }

    #[test]
    fn pointers_pages_and_messages_are_named() {
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 93000\n";
        assert!(said(pointer).unwrap().contains("Git LFS pointer"));
        for page in ["<!DOCTYPE html>\n<html>", "\u{feff}\n<HTML lang=en>"] {
            assert!(said(page.as_bytes()).unwrap().contains("HTML page"));
        }
        let xml = "<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code></Error>";
        assert!(said(xml.as_bytes()).unwrap().contains("XML"));
        assert!(said(b"Entry not found").unwrap().contains("\"Entry not found\""));
        assert_eq!(said(b"\x10\0\0\0\0\0\0\0{\"a\":{}}"), None);
        assert_eq!(said(b""), None);
    }
}
