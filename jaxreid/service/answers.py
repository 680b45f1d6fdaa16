"""Response models of the service in OpenAPI."""

from typing import Annotated

from pydantic import BaseModel, Field

# x and y in the first image, x and y in the second, as fractions of width and height; strength.
Match = Annotated[tuple[float, float, float, float, float], Field(description="x, y, x, y, share")]


class Problem(BaseModel):
    """Request that was refused."""

    detail: str = Field(description="expected and actual values")


class Health(BaseModel):
    """State of the service."""

    status: str
    version: str


class Bounds(BaseModel):
    """Limits of a request."""

    body: int = Field(description="bytes of a request")
    pixels: int = Field(description="pixels of an image")
    queries: int = Field(description="photos of the person in a search")
    images: int = Field(description="other images of a request")
    top: int = Field(description="length of a ranked list")
    matches: int = Field(description="matches of a pair, and hits with matches")
    seconds: float = Field(description="time for a request")


class About(BaseModel):
    """Model and limits of the service."""

    model: str
    height: int
    width: int
    features: list[int] = Field(description="shape of one image's features")
    matches: bool = Field(description="whether pairs have local matches")
    calibrated_on: str | None = Field(description="null without a calibration")
    index: int | None = Field(description="images in the index; null without one")
    writable: bool = Field(description="whether requests may change the index")
    limits: Bounds


class Features(BaseModel):
    """Features of images."""

    names: list[str]
    shape: list[int] = Field(description="images, then the shape of one image's features")
    features: list = Field(description="numbers, nested by shape")
    notes: list[str]


class Comparison(BaseModel):
    """Score of a pair, with its probability and false-match rate."""

    score: float = Field(description="larger is more similar; not comparable between models")
    probability: float | None = Field(description="of the same person; null if not calibrated")
    prior: float = Field(description="probability before looking")
    false_match_rate: float | None = Field(description="share of other people who score as high")
    calibrated_on: str | None
    matches: list[Match] | None = Field(description="null for a model without local matches")
    notes: list[str]


class Hit(BaseModel):
    """Image of a ranked list."""

    rank: int
    name: str
    place: int | None = Field(description="number in the gallery of the request; null of an index")
    id: str | None = Field(description="id in the index; null of a gallery in the request")
    score: float
    probability: float | None
    false_match_rate: float | None
    photo: int | None = Field(description="query photo that the matches are with")
    matches: list[Match] | None
    camera: str | None = None
    time: float | None = Field(None, description="seconds")
    person: str | None = None
    thumbnail: str | None = Field(None, description="data URI, of images of the index")


class Found(BaseModel):
    """Ranked list, best first."""

    hits: list[Hit]
    searched: int = Field(description="images of the gallery or of the index")
    prior: float
    calibrated_on: str | None
    notes: list[str]


class IndexInfo(BaseModel):
    """Index of the service."""

    images: int
    features: list[int]
    dtype: str
    digest: str = Field(description="of the model")
    shortlist: int = Field(description="images scored exactly for a query")
    recall: float | None = Field(description="of the exactly best ten; null until measured")
    writable: bool


class Added(BaseModel):
    """Images added to the index."""

    added: int
    there: int = Field(description="images that were in the index already")
    images: int = Field(description="images in the index now")
    ids: list[str]


class Removed(BaseModel):
    """Image removed from the index."""

    removed: int
    images: int
