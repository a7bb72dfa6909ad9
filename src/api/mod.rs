//! REST + JSON for operators, under /api/v1.
