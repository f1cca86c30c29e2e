"""Fine-tune from Python on a folder of class folders, and evaluate the classifier on other videos.

Run: python examples/finetune_on_your_videos.py TRAIN_FOLDER TEST_FOLDER WEIGHTS OUTPUT
"""

import sys
from typing import Any

from videomae_fast.recipes.evaluate import EvaluateConfig, Result, evaluate
from videomae_fast.recipes.finetune import FinetuneConfig, finetune


def main(train: str, test: str, weights: str, output: str, views: dict[str, Any], **options: Any) -> Result:
    """Run the published ViT-B fine-tuning with your options; return the scores of the test videos."""
    config = FinetuneConfig.from_options(data=train, init=weights, output=output, **options)
    finetune(config)
    result = evaluate(EvaluateConfig.from_options(data=test, init=output, **views))
    print(*result.lines(), sep="\n")
    confusion = result.evaluation.confusion()
    for number, name in enumerate(result.evaluation.class_names):
        print(f"{name}: {confusion[number, number]} of {confusion[number].sum()} videos")
    return result


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4], views={})
