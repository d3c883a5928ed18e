//! The world tests: every part real.
