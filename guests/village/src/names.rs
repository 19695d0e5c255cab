//! The names of the world: state holds numbers, and these lists say what they are called.
//!
//! None of these words may be used in small talk; the tests hold the two apart.

/// People.
pub const PEOPLE: [&str; 24] = [
    "Maren", "Odo", "Tilda", "Bram", "Ysolde", "Corin", "Hesta", "Falk", "Linnet", "Garrick",
    "Petra", "Anselm", "Wenna", "Rufus", "Elke", "Jorin", "Sabra", "Dunstan", "Nell", "Ivo",
    "Katrin", "Osric", "Vesna", "Merle",
];

/// What people do, and where, as a place in [`PLACES`].
pub const ROLES: [(&str, u8); 8] = [
    ("miller", 0),
    ("baker", 1),
    ("smith", 2),
    ("innkeeper", 3),
    ("priest", 4),
    ("merchant", 5),
    ("gardener", 6),
    ("ferryman", 7),
];

/// Places. The first eight are somebody's place of work.
pub const PLACES: [&str; 10] = [
    "mill", "bakery", "smithy", "tavern", "chapel", "market", "orchard", "ferry", "fountain",
    "bridge",
];

/// Items.
pub const ITEMS: [&str; 24] = [
    "lantern", "rope", "map", "key", "honey", "bread", "hammer", "kettle", "basket", "fiddle",
    "blanket", "locket", "candle", "axe", "letter", "cheese", "compass", "net", "flute", "salt",
    "mirror", "saddle", "cloak", "bell",
];
