"""Wardrobes: what people wear in each domain, by season and place."""

import dataclasses

Weights = dict[str, float]

COLOURS: dict[str, tuple[int, int, int]] = {
    "black": (30, 30, 34),
    "charcoal": (58, 60, 66),
    "grey": (128, 130, 134),
    "silver": (184, 186, 190),
    "white": (234, 232, 226),
    "cream": (226, 212, 182),
    "tan": (184, 148, 104),
    "brown": (98, 66, 44),
    "rust": (168, 80, 40),
    "red": (196, 36, 40),
    "burgundy": (108, 26, 44),
    "pink": (228, 142, 168),
    "magenta": (186, 44, 124),
    "orange": (232, 128, 36),
    "yellow": (236, 204, 60),
    "mustard": (190, 148, 40),
    "lime": (148, 196, 64),
    "green": (44, 126, 66),
    "forest": (34, 70, 48),
    "olive": (96, 96, 54),
    "teal": (30, 124, 130),
    "sky": (128, 184, 226),
    "blue": (44, 88, 182),
    "denim": (70, 98, 142),
    "pale denim": (138, 164, 196),
    "navy": (30, 40, 80),
    "purple": (104, 60, 140),
    "lilac": (176, 156, 208),
    "skin 0": (240, 206, 182),
    "skin 1": (222, 176, 144),
    "skin 2": (190, 136, 100),
    "skin 3": (142, 94, 66),
    "skin 4": (92, 60, 44),
    "hair black": (26, 22, 22),
    "hair brown": (70, 46, 32),
    "hair light": (126, 88, 52),
    "hair blond": (206, 168, 102),
    "hair grey": (156, 154, 152),
    "hair red": (146, 66, 34),
}
SKIN = tuple(name for name in COLOURS if name.startswith("skin"))
HAIR: Weights = {
    "hair black": 4,
    "hair brown": 4,
    "hair light": 2,
    "hair blond": 2,
    "hair grey": 1,
    "hair red": 0.7,
}


@dataclasses.dataclass(frozen=True)
class Wardrobe:
    """Frequencies of garments, colours and accessories; dictionaries map a name to its weight."""

    uppers: Weights
    upper_colours: Weights
    patterns: Weights
    lowers: Weights
    lower_colours: Weights
    accents: Weights
    shoes: Weights
    shoe_colours: Weights
    bags: Weights
    bag_colours: Weights
    hats: Weights
    printed: tuple[str, ...]  # upper garments that carry logos
    logos: float  # probability of a logo on these
    scarves: float
    side_stripes: float
    spread: int = 14  # how far colours stray from their names
    hair: Weights = dataclasses.field(default_factory=lambda: HAIR)
    rich: bool = False  # people with the details of drawn domains
    short_hair: Weights = dataclasses.field(
        default_factory=lambda: {"short": 6, "crop": 3, "afro": 1}
    )
    long_hair: Weights = dataclasses.field(
        default_factory=lambda: {"long": 4, "bob": 2, "ponytail": 3, "bun": 1.5, "short": 1}
    )


_LEATHER: Weights = {"black": 4, "brown": 3, "tan": 2, "burgundy": 1, "cream": 1, "red": 0.7}
_BRIGHT: Weights = {
    "white": 3, "red": 2, "yellow": 1.5, "sky": 1.5, "blue": 2, "green": 1.2, "orange": 1.2,
    "pink": 1.2, "black": 2, "teal": 1, "purple": 0.8, "lime": 0.7, "navy": 1,
}  # fmt: skip

# Summer in the city.
_PLAZA = Wardrobe(
    uppers={"tshirt": 8, "shirt": 2, "tank": 2, "blouse": 2, "dress": 2.5, "hoodie": 0.7},
    upper_colours={
        "white": 4, "black": 2.5, "grey": 2, "red": 1.6, "blue": 1.6, "sky": 1.6, "yellow": 1.4,
        "pink": 1.4, "green": 1.3, "orange": 1, "teal": 1, "navy": 1.3, "lime": 0.7, "cream": 1,
        "lilac": 0.8, "magenta": 0.6,
    },
    patterns={"plain": 5, "stripes": 2.5, "bars": 0.8, "dots": 1, "check": 1, "two-tone": 1.2,
              "band": 0.8, "flowers": 1},
    lowers={"shorts": 5, "trousers": 3, "skirt": 2, "cropped": 2, "long_skirt": 0.8},
    lower_colours={"denim": 4, "pale denim": 2, "tan": 2, "black": 2.5, "white": 1.3, "navy": 1.5,
                   "olive": 1, "grey": 1, "red": 0.5, "cream": 1},
    accents=_BRIGHT,
    shoes={"trainers": 5, "sandals": 2.5, "shoes": 1},
    shoe_colours={"white": 3, "black": 2, "tan": 1.5, "red": 0.8, "blue": 0.8, "grey": 1},
    bags={"none": 4, "backpack": 3, "shoulder": 2.5, "tote": 1.5, "handbag": 1},
    bag_colours={**_LEATHER, **_BRIGHT},
    hats={"none": 7, "cap": 2.2, "sunhat": 1},
    printed=("tshirt", "tank", "hoodie"), logos=0.6, scarves=0.0, side_stripes=0.2,
)  # fmt: skip
# Winter, commuters and travellers.
_STATION = Wardrobe(
    uppers={"coat": 5, "puffer": 4, "jacket": 4, "suit": 1.2, "hoodie": 1.5},
    upper_colours={
        "black": 5, "charcoal": 3, "navy": 3, "grey": 2, "brown": 1.5, "olive": 1.5, "forest": 1,
        "burgundy": 1.2, "tan": 1.2, "red": 0.8, "mustard": 0.6, "cream": 0.7, "teal": 0.6,
    },
    patterns={"plain": 7, "check": 1.2, "band": 1.5, "two-tone": 1.6, "quilt": 2, "bars": 0.5},
    lowers={"trousers": 8, "skirt": 1, "long_skirt": 0.7, "cropped": 0.6},
    lower_colours={"black": 4, "charcoal": 2, "denim": 3, "navy": 2, "grey": 1.5, "brown": 1,
                   "tan": 0.8},
    accents={"red": 2, "white": 2, "mustard": 1.5, "teal": 1, "burgundy": 1, "grey": 1,
             "black": 1.2, "orange": 0.8, "sky": 0.8, "cream": 1.2, "purple": 0.6},
    shoes={"boots": 4, "shoes": 3, "trainers": 3},
    shoe_colours={"black": 4, "brown": 3, "tan": 1.2, "white": 1.2, "grey": 1},
    bags={"none": 3, "suitcase": 2.6, "backpack": 3, "shoulder": 2, "handbag": 1.5},
    bag_colours={**_LEATHER, "blue": 1, "grey": 1, "orange": 0.7, "teal": 0.7},
    hats={"none": 5, "beanie": 3, "cap": 0.7, "hood": 1.5},
    printed=("puffer", "hoodie", "jacket"), logos=0.3, scarves=0.42, side_stripes=0.06,
)  # fmt: skip
# Smart casual, many bags.
_MALL = Wardrobe(
    uppers={"shirt": 4, "blouse": 3, "jacket": 3.5, "tshirt": 3, "dress": 2, "suit": 1.5,
            "hoodie": 0.8},
    upper_colours={
        "white": 3, "cream": 2, "black": 3, "navy": 2, "burgundy": 1.6, "pink": 1.4, "lilac": 1.3,
        "grey": 2, "tan": 1.6, "teal": 1.2, "forest": 1, "sky": 1.4, "rust": 1.2, "purple": 0.8,
    },
    patterns={"plain": 4, "stripes": 1.6, "bars": 1.6, "check": 1.8, "dots": 1.6, "flowers": 1.6,
              "two-tone": 1, "band": 0.6},
    lowers={"trousers": 6, "skirt": 2.4, "long_skirt": 1.4, "cropped": 1.8, "shorts": 0.5},
    lower_colours={"black": 3, "denim": 2.4, "navy": 1.6, "tan": 1.6, "white": 1, "grey": 1.6,
                   "burgundy": 0.9, "olive": 0.8, "brown": 0.8, "cream": 1},
    accents={"white": 2, "black": 2, "burgundy": 1, "pink": 1.2, "mustard": 1, "teal": 1,
             "navy": 1.2, "rust": 1, "lilac": 0.8, "cream": 1, "red": 0.8},
    shoes={"shoes": 4, "trainers": 2.5, "boots": 1.5, "sandals": 1},
    shoe_colours={"black": 3, "brown": 2, "tan": 1.6, "white": 1.4, "red": 0.8, "burgundy": 0.7},
    bags={"none": 2.2, "tote": 3.4, "handbag": 3, "shoulder": 2.4, "backpack": 0.8},
    bag_colours={**_LEATHER, "white": 2, "pink": 0.8, "yellow": 0.8, "teal": 0.8, "blue": 0.7},
    hats={"none": 9, "cap": 0.6, "beanie": 0.5},
    printed=("tshirt", "hoodie"), logos=0.5, scarves=0.15, side_stripes=0.04,
)  # fmt: skip
# Autumn, students.
_CAMPUS = Wardrobe(
    uppers={"hoodie": 6, "jacket": 3, "tshirt": 3, "shirt": 2.5, "puffer": 1.2},
    upper_colours={
        "grey": 4, "navy": 2.4, "black": 3, "burgundy": 2, "forest": 1.8, "mustard": 1.3,
        "olive": 1.6, "denim": 1.4, "red": 1.2, "purple": 1, "rust": 1.2, "white": 1.2, "teal": 1,
    },
    patterns={"plain": 6, "stripes": 1.4, "check": 2.6, "two-tone": 1.8, "band": 1.6},
    lowers={"trousers": 8, "cropped": 1.4, "shorts": 1.2, "skirt": 0.8},
    lower_colours={"denim": 5, "pale denim": 2, "black": 4, "grey": 2, "olive": 1.2, "tan": 1.2,
                   "navy": 1.2},
    accents={"white": 3, "yellow": 1.5, "red": 1.4, "sky": 1.2, "orange": 1.2, "black": 1.6,
             "green": 0.8, "navy": 1, "cream": 1},
    shoes={"trainers": 7, "boots": 2},
    shoe_colours={"white": 4, "black": 3, "red": 1, "grey": 1.2, "blue": 0.8, "tan": 0.8},
    bags={"none": 2, "backpack": 7, "shoulder": 1.6, "tote": 1.2},
    bag_colours={"black": 3, "navy": 1.4, "red": 1.2, "green": 1, "mustard": 1, "grey": 1.4,
                 "teal": 1, "orange": 0.8, "burgundy": 1, "tan": 0.8},
    hats={"none": 7, "beanie": 1.8, "cap": 1.6, "hood": 0.8},
    printed=("hoodie", "tshirt"), logos=0.66, scarves=0.12, side_stripes=0.2,
)  # fmt: skip

WARDROBES: tuple[Wardrobe, ...] = (_PLAZA, _STATION, _MALL, _CAMPUS)
