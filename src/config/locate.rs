//! Where in the file a key stands: errors name file, line and key.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A key of the file.
struct Place {
    /// `hypervisor[0].datastore[1].name`.
    path: String,
    key: Range<usize>,
    value: Range<usize>,
}

/// The keys of a file, outer ones before those within them.
pub(super) struct Places<'a> {
    text: &'a str,
    places: Vec<Place>,
}

impl<'a> Places<'a> {
    /// Those of `text`; none where it is not TOML.
    pub(super) fn of(text: &'a str) -> Self {
        let mut places = Vec::new();
        if let Ok(table) = DeTable::parse(text) {
            walk(table.get_ref(), "", &mut places);
        }
        Self { text, places }
    }

    /// The line of a key such as `share[1].name`, counted from 1; of what holds it, where the key itself is not there.
    pub(super) fn line(&self, path: &str) -> Option<usize> {
        let mut path = path;
        loop {
            if let Some(place) = self.places.iter().find(|place| place.path == path) {
                return Some(self.line_at(place.key.start));
            }
            path = &path[..path.rfind(['.', '['])?];
        }
    }

    /// The line of a byte, counted from 1.
    pub(super) fn line_at(&self, at: usize) -> usize {
        self.text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
    }

    /// The innermost key whose name or value holds that byte.
    pub(super) fn key_at(&self, at: usize) -> Option<String> {
        let holds = |place: &&Place| place.key.contains(&at) || place.value.contains(&at);
        self.places.iter().rfind(holds).map(|place| shown(&place.path))
    }
}

/// A path without its numbers: the line tells which one is meant.
pub(super) fn shown(path: &str) -> String {
    path.split('.').map(|part| part.split('[').next().unwrap_or(part)).collect::<Vec<_>>().join(".")
}

fn walk(table: &DeTable<'_>, prefix: &str, places: &mut Vec<Place>) {
    for (key, value) in table {
        let path =
            if prefix.is_empty() { key.get_ref().to_string() } else { format!("{prefix}.{}", key.get_ref()) };
        places.push(Place { path: path.clone(), key: key.span(), value: value.span() });
        descend(value, &path, places);
    }
}

fn descend(value: &Spanned<DeValue<'_>>, path: &str, places: &mut Vec<Place>) {
    match value.get_ref() {
        DeValue::Table(table) => walk(table, path, places),
        DeValue::Array(items) => {
            for (number, item) in items.iter().enumerate() {
                let path = format!("{path}[{number}]");
                places.push(Place { path: path.clone(), key: item.span(), value: item.span() });
                descend(item, &path, places);
            }
        }
        _ => {}
    }
}
