managers = 0


def enable_custom_widget_manager():
    """Colab loads widgets that are not ipywidgets' own only after this."""
    global managers
    managers += 1
