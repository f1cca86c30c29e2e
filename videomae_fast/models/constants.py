"""Channel statistics that the published weights were trained with; models/ and interop/ both need them."""

# Mean and standard deviation of ImageNet's red, green and blue, for pixels in [0, 1]. The published VideoMAE V2 code
# normalises every clip with them (dataset/build.py).
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
