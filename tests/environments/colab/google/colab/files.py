downloaded = []


def download(filename):
    """Colab hands the file to the browser; there it raises FileNotFoundError for one that is missing."""
    with open(filename, "rb") as file:
        downloaded.append((filename, file.read(6)))
