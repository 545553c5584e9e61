//! longshore beside its bare references.
