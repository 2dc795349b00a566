"""A scikit-learn model of the iris data, trained when the worker starts."""
from typing import List

from iris_pyproc import Batch, BatchReply, ClassifierHandler, Empty, Flower, HeldOut, Species, serve
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split

from pyproc_worker import on_start


def features(flower: Flower) -> List[float]:
    """A flower as the model wants it."""
    return [flower.sepal_length, flower.sepal_width, flower.petal_length, flower.petal_width]


class Classifier(ClassifierHandler):
    """Handles iris.Classifier."""

    def train(self) -> None:
        """Trains on two thirds of the flowers; the rest is held out. The same ones in every worker."""
        data = load_iris()
        known, self.held_out, labels, self.held_out_labels = train_test_split(
            data.data, data.target, test_size=1 / 3, random_state=7, stratify=data.target)
        self.names = [str(name) for name in data.target_names]
        self.model = RandomForestClassifier(n_estimators=50, random_state=7).fit(known, labels)

    def classify(self, flowers: List[List[float]]) -> List[Species]:
        """The likeliest species of each."""
        result = []
        for chances in self.model.predict_proba(flowers):
            label = int(chances.argmax())
            result.append(Species(label=label, name=self.names[label], probability=chances[label]))
        return result

    def held_out_flowers(self, request: Empty, context) -> HeldOut:
        """What the model has not seen."""
        flowers = [Flower(sepal_length=row[0], sepal_width=row[1], petal_length=row[2], petal_width=row[3])
                   for row in self.held_out]
        return HeldOut(flowers=flowers, labels=[int(label) for label in self.held_out_labels])

    def predict(self, request: Flower, context) -> Species:
        """Classifies one flower."""
        return self.classify([features(request)])[0]

    def batch_predict(self, request: Batch, context) -> BatchReply:
        """Classifies many at once."""
        if not request.flowers:
            return BatchReply()
        return BatchReply(species=self.classify([features(flower) for flower in request.flowers]))


if __name__ == "__main__":
    classifier = Classifier()
    on_start(classifier.train)
    serve(classifier)
