"""Labels records by meaning, from a few examples of each label.

The same workload as `guests/batch-classifier` in skep's repository, which says more about the
mathematics: the same operators in the same order on the same device, and so the same labels.
"""

from math import sqrt

from componentize_py_types import Err, Ok
from wit_world import exports
from wit_world.exports.classifier import Document, Label, Prediction
from wit_world.imports.encoders import Encoder
from wit_world.imports.tensors import Dtype, Span, Tensor
from wit_world.imports.types import Error_Invalid

BATCH = 256  # the most texts that are embedded in one call while fitting
STEPS = 100  # of gradient descent
MOMENTUM = 0.9
SHARPNESS = 10.0


class Lesson:
    """What is to be learned: the texts of all labels, checked, one row each."""

    def __init__(self, labels: list[Label]):
        if len(labels) < 2:
            raise invalid(f"a classifier needs at least two labels, and was given {len(labels)}")
        self.texts, self.owners, self.counts = [], [], []
        names = set()
        for owner, label in enumerate(labels):
            if not label.name.strip():
                raise invalid(f"label {owner + 1} has no name")
            if label.name in names:
                raise invalid(f"two labels are named '{label.name}'")
            names.add(label.name)
            texts = [text.strip() for text in [*label.examples, label.description or ""]]
            texts = [text for text in texts if text]
            if not texts:
                raise invalid(f"label '{label.name}' has neither a description nor an example")
            self.texts += texts
            self.owners += [owner] * len(texts)
            self.counts.append(len(texts))

    def weights(self) -> list[float]:
        """How much each text counts, so that every label counts the same and all sum to 1."""
        return [1.0 / (len(self.counts) * self.counts[owner]) for owner in self.owners]

    def targets(self) -> list[float]:
        """A row for each text: 1 in the column of its label and 0 elsewhere."""
        labels = range(len(self.counts))
        return [float(label == owner) for owner in self.owners for label in labels]


class Head:
    """Softmax regression, by gradient descent with Nesterov's momentum."""

    def __init__(self, points: Tensor, lesson: Lesson):
        n, c = len(lesson.texts), len(lesson.counts)
        width = points.shape()[1]

        importance = Tensor.from_f32(lesson.weights(), [n, 1])
        targets = Tensor.from_f32(lesson.targets(), [n, c])
        ones = Tensor.full([n, 1], 1.0, Dtype.F32)

        mean = points.mul(importance).sum(0, True)
        x = Tensor.concat([points.sub(mean), ones], 1)
        x_weighted = x.mul(importance).transpose(0, 1)
        decay = 1.0 / n
        rate = 1.0 / (0.5 + decay)

        weights = Tensor.zeros([width + 1, c], Dtype.F32)
        step = Tensor.zeros([width + 1, c], Dtype.F32)
        for _ in range(STEPS):
            coast = step.mul_scalar(MOMENTUM)
            ahead = weights.add(coast)
            error = x.matmul(ahead).softmax(-1).sub(targets)
            gradient = x_weighted.matmul(error).add(ahead.mul_scalar(decay))
            step = coast.sub(gradient.mul_scalar(rate))
            weights = weights.add(step)

        # Unfold the intercept and the centring, so that `classify` needs neither.
        weights = weights.mul_scalar(1.0 + SHARPNESS / sqrt(n / c))
        intercept = weights.slice([Span(width, width + 1), Span(0, c)])
        self.weights = weights.slice([Span(0, width), Span(0, c)])
        self.offset = intercept.sub(mean.matmul(self.weights))

    def classify(self, points: Tensor) -> list[Prediction]:
        probabilities = points.matmul(self.weights).add(self.offset).softmax(-1)
        labels = probabilities.argmax(-1, False).to_i32()
        scores = probabilities.max(-1, False).to_f32()
        return [Prediction(label, score) for label, score in zip(labels, scores)]


class Classifier(exports.Classifier):
    """What the node calls."""

    def fit(self, labels: list[Label]) -> None:
        global encoder, head
        encoder = head = None
        lesson = Lesson(labels)
        encoder = Encoder.open("default")
        batches = range(0, len(lesson.texts), BATCH)
        points = [encoder.embed(lesson.texts[start : start + BATCH]) for start in batches]
        head = Head(Tensor.concat(points, 0), lesson)

    def classify(self, documents: list[Document]) -> list[Ok[Prediction] | Err[str]]:
        if head is None:
            raise invalid("classify was called before fit had succeeded")
        texts = [document.text.strip() for document in documents]
        filled = [text for text in texts if text]
        predictions = iter(head.classify(encoder.embed(filled)) if filled else [])
        return [Ok(next(predictions)) if text else Err("the text is empty") for text in texts]


encoder: Encoder | None = None
head: Head | None = None


def invalid(reason: str) -> Err:
    """An error of the contract, to be raised."""
    return Err(Error_Invalid(reason))
