//! What people write to a shop's help desk, in pieces.
//!
//! One file for each category holds its cores: sentences that carry the category. Everything
//! that any ticket may have is in [`common`]. In a phrase `{name}` stands for any entry of the
//! slot of that name, which may hold slots in turn.

mod billing;
mod bug;
mod cancellation;
pub mod common;
mod feature;
mod login;
mod product;
mod refund;
mod shipping;

/// One category of tickets.
pub struct Category {
    /// The label.
    pub name: &'static str,
    /// What the label means, in words; enough to classify by without an example.
    pub description: &'static str,
    /// Sentences that carry the category.
    pub cores: &'static [&'static str],
    /// Sentences that may follow a core, and say more.
    pub details: &'static [&'static str],
}

/// All categories, in the order of their labels.
pub const CATEGORIES: [Category; 8] = [
    billing::CATEGORY,
    refund::CATEGORY,
    shipping::CATEGORY,
    login::CATEGORY,
    bug::CATEGORY,
    feature::CATEGORY,
    cancellation::CATEGORY,
    product::CATEGORY,
];
