//! Wildcards of QUERY_DIRECTORY (MS-FSA 2.1.4.4): `*` and `?`, and DOS's `<` (DOS_STAR), `>` (DOS_QM) and `"` (DOS_DOT).
//!
//! Matching is a walk over the set of reachable positions, so its cost is at most pattern times name, whatever a client
//! sends: nothing backtracks.

/// Longest pattern that is looked at, in characters: one longer than a name with a wildcard between every two characters
/// can't be meant.
pub const PATTERN_MAX: usize = 1024;

/// A pattern, its case folded, ready to be matched many times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    units: Vec<char>,
    all: bool,
}

impl Pattern {
    /// Prepares `text`; an empty one matches everything (MS-SMB2 3.3.5.18). `None` where it is too long.
    pub fn new(text: &str) -> Option<Self> {
        let units: Vec<char> = text.chars().map(fold).collect();
        (units.len() <= PATTERN_MAX).then_some(Self { units, all: matches!(text, "" | "*") })
    }

    /// Whether it can match more than one name.
    pub fn has_wildcards(&self) -> bool {
        self.units.is_empty() || self.units.iter().any(|c| matches!(c, '*' | '?' | '<' | '>' | '"'))
    }

    /// Whether `name` matches, without regard to case.
    pub fn matches(&self, name: &str) -> bool {
        if self.all {
            return true;
        }
        let name: Vec<char> = name.chars().map(fold).collect();
        let last_dot = name.iter().rposition(|c| *c == '.');
        // reachable[p]: the pattern's first p characters match what was read of the name so far.
        let mut reachable = vec![false; self.units.len() + 1];
        reachable[0] = true;
        self.skip_empty(&mut reachable, &name, 0);
        for (at, c) in name.iter().enumerate() {
            let mut next = vec![false; reachable.len()];
            for (p, unit) in self.units.iter().enumerate().filter(|(p, _)| reachable[*p]) {
                match unit {
                    '*' => next[p] = true,
                    // DOS_STAR takes anything but the name's last dot, which only the pattern's next character may take.
                    '<' if Some(at) != last_dot => next[p] = true,
                    '<' => {}
                    '?' => next[p + 1] = true,
                    '>' if *c != '.' => next[p + 1] = true,
                    '"' if *c == '.' => next[p + 1] = true,
                    unit if unit == c => next[p + 1] = true,
                    _ => {}
                }
            }
            reachable = next;
            self.skip_empty(&mut reachable, &name, at + 1);
        }
        reachable[self.units.len()]
    }

    /// Adds the positions reached by wildcards that match nothing, before `name[at]`.
    fn skip_empty(&self, reachable: &mut [bool], name: &[char], at: usize) {
        let end = at == name.len();
        for (p, unit) in self.units.iter().enumerate() {
            let empty = match unit {
                '*' | '<' => true,
                // DOS_QM matches nothing before a dot or at the end; DOS_DOT matches nothing at the end.
                '>' => end || name[at] == '.',
                '"' => end,
                _ => false,
            };
            if reachable[p] && empty {
                reachable[p + 1] = true;
            }
        }
    }
}

/// Upper case, one character for one, as file systems of Windows fold names.
fn fold(c: char) -> char {
    let mut upper = c.to_uppercase();
    match (upper.next(), upper.next()) {
        (Some(one), None) => one,
        _ => c,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        Pattern::new(pattern).unwrap().matches(name)
    }

    #[test]
    fn star_and_question_mark() {
        assert!(matches("*", "anything"));
        assert!(matches("", "anything"));
        assert!(matches("*.vmdk", "disk-flat.VMDK"));
        assert!(!matches("*.vmdk", "disk.vmx"));
        assert!(matches("d?sk", "disk"));
        assert!(!matches("d?sk", "dsk"));
        assert!(!matches("disk?", "disk"));
        assert!(matches("a*b*c", "aXXbYYc"));
        assert!(!matches("a*b*c", "aXXcYYb"));
    }

    #[test]
    fn names_without_wildcards_are_compared_without_case() {
        assert!(matches("GRÖSSE", "grösse"));
        assert!(!matches("disk", "disk1"));
        assert!(!Pattern::new("disk").unwrap().has_wildcards());
        assert!(Pattern::new("di<").unwrap().has_wildcards());
    }

    #[test]
    fn dos_wildcards() {
        // What a DOS `*.*` turns into.
        assert!(matches("<\"*", "file"));
        assert!(matches("<\"*", "file.txt"));
        assert!(matches("<.txt", "a.b.txt"));
        assert!(!matches("<.txt", "a.txt.b"));
        assert!(matches(">>>>", "abc"));
        assert!(!matches(">>", "abc"));
        assert!(matches(">>>.txt", "ab.txt"));
        assert!(matches("file\"", "file"));
        assert!(matches("file\"", "file."));
        assert!(!matches("file\"", "file1"));
    }

    #[test]
    fn hostile_patterns_cost_no_more_than_their_size() {
        let pattern = "*a".repeat(PATTERN_MAX / 2);
        let started = std::time::Instant::now();
        assert!(!matches(&pattern, &"a".repeat(255)));
        assert!(started.elapsed().as_secs() < 5);
        assert!(Pattern::new(&"*".repeat(PATTERN_MAX + 1)).is_none());
    }
}
