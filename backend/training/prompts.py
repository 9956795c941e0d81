"""The ten prompts by which a starter pack is judged, fixed before any training, and more for the sample sheets."""

JUDGED = (
    "a red mushroom with a white stem",
    "a blue mug",
    "a wooden chair",
    "a yellow lamp with a black base",
    "a green cactus in an orange pot",
    "a white rocket with red fins",
    "an orange pumpkin with a green stem",
    "a purple sofa",
    "a pink donut",
    "a white house with a red roof",
)
SAMPLED = (
    "a snowman with a black hat",
    "a gray sword with a brown handle",
    "a green tree",
    "a blue car",
    "a brown barrel",
    "a red and white striped bottle",
)
