"""Channel statistics that published weights were trained with."""

# Mean and standard deviation of ImageNet's red, green and blue, for pixels in [0, 1]: what the published VideoMAE V2
# code normalises every clip with (dataset/build.py).
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
