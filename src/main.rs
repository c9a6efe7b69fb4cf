//! The importfs service and its commands.

fn main() {}
